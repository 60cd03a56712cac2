package vault

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/stores"
)

// Provider implements provider.Provider, Releaser, Persister and Validator. It
// has no goroutines of its own: all work is done by its callers.
type Provider struct {
	config    Config
	operator  endpoint.Target
	mounts    []string // the operator's own, the default one first
	allowed   endpoint.Allowlist
	client    *client
	specs     params.Cache[*spec]
	endpoints endpoint.Pool
	volumes   session.Volumes[*volume, *token]
	groups    groups
	learned   learned
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
	fallback, err := c.address()
	if err != nil {
		return nil, err
	}
	mounts, err := c.mounts()
	if err != nil {
		return nil, err
	}
	allowed, err := endpoint.ParseAllowlist(c.AllowedAddresses, fallback)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	files, err := endpoint.NewFiles(c.ClassFileDirs)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	p := &Provider{
		config: c, operator: endpoint.Target{Address: fallback, TLS: c.DefaultTLS}, mounts: mounts, allowed: allowed,
		specs: params.Cache[*spec]{Budget: c.Budget}, groups: groups{budget: c.Budget},
	}
	p.endpoints = endpoint.Pool{
		Logger: c.Logger, Names: settingNames(c.Name), Operator: c.Instead.Over(p.operator), Files: files, Allowed: allowed,
		AllowLocal: c.AllowLocalAddresses || !c.Instead.Address.IsZero(),
	}
	p.client, err = newClient(&p.config, allowed)
	return p, err
}

// Fetch implements provider.Provider.
//
//  1. The class is parsed, or found parsed.
//  2. The volume joins the group of its identity.
//  3. Each distinct request is answered: from what the volume or the group
//     has, by renewing a lease, or by the store. They run in parallel.
//  4. The files are made of the answers, and of the volume's last good ones
//     where some requests fail (Payload.Partial).
//
// What step 3 achieved is kept when a part of it fails, so that the next call
// makes no second credential.
func (p *Provider) Fetch(ctx context.Context, r provider.Request) (*provider.Payload, error) {
	if ctx.Err() != nil {
		return nil, fault.Ended(ctx)
	}
	s, err := p.spec(r)
	if err != nil {
		return nil, err
	}
	e, err := p.endpoints.Get(ctx, s.login.target, p.config.Now())
	if err != nil {
		return nil, err
	}
	v, ctx, leave, err := p.volumes.Enter(ctx, r.Volume, func(id string) *volume { return newVolume(id, r.Pod.Namespace, p.config.Budget) })
	if err != nil {
		return nil, err
	}
	defer leave()
	f := &fetch{Provider: p, request: r, spec: s, volume: v, endpoint: e, began: p.config.Now(), correlation: newCorrelation()}
	return f.run(ctx)
}

// newCorrelation is a random id that joins our log with the store's audit.
func newCorrelation() string {
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	return hex.EncodeToString(id)
}

// Destination implements provider.Router.
func (p *Provider) Destination(id string) string {
	v := p.volumes.Find(id)
	if v == nil {
		return ""
	}
	g := v.currentGroup()
	if g == nil {
		return ""
	}
	return g.key.login.target.Address.String() + " " + g.key.login.namespace
}

// Stores implements provider.Watcher.
func (p *Provider) Stores() []stores.Store { return p.endpoints.Stores() }

// Close ends the idle connections. The Provider can still be used.
func (p *Provider) Close() { p.endpoints.CloseIdle() }
