package vault

import (
	"fmt"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/stores"
)

// Provider is Vault's part of the engine of package session.
type Provider struct {
	*session.Engine
	config    Config
	operator  endpoint.Operator
	mounts    []string // the operator's own, the default one first
	allowed   endpoint.Allowlist
	client    *client
	endpoints endpoint.Pool
	kinds     kinds
	// unrevoked has the logins whose tokens may not revoke themselves.
	unrevoked session.Memory[login, struct{}]
}

var (
	_ provider.Watcher = (*Provider)(nil)
	_ session.Store    = (*Provider)(nil)
)

// New checks the configuration. It starts nothing and sends no request.
func New(c Config) (*Provider, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	operator, err := c.operator()
	if err != nil {
		return nil, err
	}
	mounts, err := c.mounts()
	if err != nil {
		return nil, err
	}
	allowed, err := endpoint.ParseAllowlist(c.AllowedAddresses, operator.Address, operator.Fallback)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	files, err := endpoint.NewFiles(c.ClassFileDirs)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	p := &Provider{
		config: c, operator: operator, mounts: mounts, allowed: allowed}
	operator.Target = c.Instead.Over(operator.Target)
	p.endpoints = endpoint.Pool{
		Logger: c.Logger, Names: settingNames(c.Name), Operator: operator, Files: files, Allowed: allowed,
		AllowLocal: c.AllowLocalAddresses || !c.Instead.Address.IsZero(),
	}
	p.Engine = session.New(&p.config.Settings, p)
	p.client, err = newClient(&p.config, allowed, p.endpoints.Names)
	return p, err
}

// Traits implements session.Store: revoking a Vault token also revokes its leases.
func (p *Provider) Traits() session.Traits {
	return session.Traits{RevokesTokens: true, StateVersion: 1}
}

// Identify implements session.Store.
func (p *Provider) Identify(s *session.Spec, b session.Bearer, claims identity.Claims) session.Identity {
	i := session.Identity{Login: s.Login, Namespace: b.Pod.Namespace, ServiceAccount: b.Pod.ServiceAccount, ServiceAccountUID: claims.ServiceAccountUID}
	if claims.ServiceAccountUID == "" || loginOf(s.Login).sharing == sharePod {
		i.Pod = b.Pod.UID
	}
	return i
}

// Restored implements session.Store: it reads the metadata of a whole answer again.
func (p *Provider) Restored(l session.Login, id string, kind session.Kind, a *session.Answer) error {
	if a.Part == nil {
		again, err := decodeAnswer(a.Body, "state")
		if err != nil {
			return err
		}
		*a = *again
	}
	if parts := strings.SplitN(id, "\n", 4); l != nil && len(parts) == 4 {
		p.kinds.learn(loginOf(l), parts[0], parts[1], kind)
	}
	return nil
}

// Stores implements provider.Watcher.
func (p *Provider) Stores() []stores.Store { return p.endpoints.Stores() }

// Close closes idle connections. The Provider can still be used.
func (p *Provider) Close() { p.endpoints.CloseIdle() }
