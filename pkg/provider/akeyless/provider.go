package akeyless

import (
	"context"
	"fmt"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/stores"
)

// Provider implements provider.Provider, Releaser, Persister, LastKnown and
// Validator. It has no goroutines of its own: all work is done by its callers.
type Provider struct {
	config    Config
	operator  endpoint.Target
	allowed   endpoint.Allowlist
	specs     params.Cache[*spec]
	endpoints endpoint.Pool
	requests  endpoint.Client
	volumes   session.Volumes[*volume, *minted]
	groups    groups
	kinds     session.Memory[kindKey, kind]
	hasher    provider.Hasher
}

var (
	_ provider.Provider  = (*Provider)(nil)
	_ provider.Releaser  = (*Provider)(nil)
	_ provider.Persister = (*Provider)(nil)
	_ provider.LastKnown = (*Provider)(nil)
	_ provider.Router    = (*Provider)(nil)
	_ provider.Validator = (*Provider)(nil)
	_ provider.Watcher   = (*Provider)(nil)
)

// New checks the configuration. It starts nothing and asks nobody.
func New(c Config) (*Provider, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	fallback, chosen, err := c.gateway()
	if err != nil {
		return nil, err
	}
	always := endpoint.Address{}
	if chosen {
		always = fallback
	}
	allowed, err := endpoint.ParseAllowlist(c.AllowedAddresses, always)
	if err != nil {
		return nil, fmt.Errorf("akeyless: %w", err)
	}
	files, err := endpoint.NewFiles(c.ClassFileDirs)
	if err != nil {
		return nil, fmt.Errorf("akeyless: %w", err)
	}
	p := &Provider{
		config: c, operator: endpoint.Target{Address: fallback, TLS: c.DefaultTLS}, allowed: allowed,
		specs: params.Cache[*spec]{Budget: c.Budget}, groups: groups{budget: c.Budget},
	}
	p.requests = endpoint.Client{Settings: &p.config.Settings, Names: settingNames()}
	p.endpoints = endpoint.Pool{
		Logger: c.Logger, Names: settingNames(), Operator: c.Instead.Over(p.operator), Files: files, Allowed: allowed,
		AllowLocal: c.AllowLocalAddresses || !c.Instead.Address.IsZero(),
	}
	return p, nil
}

func (p *Provider) now() time.Time { return p.config.Now() }

// Fetch implements provider.Provider.
//
//  1. The class is parsed, or found parsed.
//  2. The volume joins the group of its identity.
//  3. Items of no named type are described.
//  4. What is due is read, static secrets in one request, or minted; the rest
//     comes from what the volume or its group has.
//  5. The files are made of the answers.
//
// What step 4 achieved is kept when a part of it fails, so that the next call
// makes no second credential.
func (p *Provider) Fetch(ctx context.Context, r provider.Request) (*provider.Payload, error) {
	s, err := p.spec(r)
	if err != nil {
		return nil, err
	}
	e, err := p.endpoints.Get(ctx, s.login.Target, p.now())
	if err != nil {
		return nil, err
	}
	v, ctx, leave, err := p.volumes.Enter(ctx, r.Volume, func(id string) *volume { return newVolume(id, r.Pod.Namespace, p.config.Budget) })
	if err != nil {
		return nil, err
	}
	defer leave()
	f := &fetch{Provider: p, request: r, spec: s, volume: v, endpoint: e, began: p.now()}
	return f.run(ctx)
}

// Destination implements provider.Router.
func (p *Provider) Destination(id string) string {
	v := p.volumes.Find(id)
	if v == nil {
		return ""
	}
	g, _ := v.identity()
	if g == nil {
		return ""
	}
	return g.key.Login.Target.Address.String()
}

// Stores implements provider.Watcher.
func (p *Provider) Stores() []stores.Store { return p.endpoints.Stores() }

// Close ends the idle connections. The Provider can still be used.
func (p *Provider) Close() { p.endpoints.CloseIdle() }

// kindKey is an item. What describe-item said of its kind is public to no one
// by being remembered: the store still judges every read.
type kindKey struct {
	target endpoint.Target
	access string
	name   string
}

func keyOf(l login, name string) kindKey { return kindKey{l.Target, l.AccessID, name} }
