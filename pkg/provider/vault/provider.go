package vault

import (
	"fmt"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/bounded"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// Provider is Vault's part of the engine of package session.
type Provider struct {
	*session.Engine
	config   Config
	operator endpoint.Operator
	policy   params.Policy // for the addresses of classes
	mounts   []string      // the operator's own, the default one first
	client   *client
	kinds    kinds
	// unrevoked has the logins whose tokens may not revoke themselves.
	unrevoked bounded.Map[login, struct{}]
}

var _ session.Store = (*Provider)(nil)

// New checks the configuration. It starts nothing and sends no request.
func New(c Config) (*Provider, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	mounts, err := c.mounts()
	if err != nil {
		return nil, err
	}
	own := endpoint.Default{What: "address", Given: c.DefaultAddress, Parse: endpoint.ParseAddressOrSocket}
	operator, err := c.Operator(own)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	p := &Provider{config: c, operator: operator, mounts: mounts}
	pool, err := c.NewPool(&p.config.Settings, settingNames(c.Name), operator, own)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	p.policy = params.Policy{Pool: pool, Servers: &p.config.Servers, AllowedFlag: "--vault-allowed-addresses"}
	p.Engine = session.New(&p.config.Settings, pool, p)
	p.client, err = newClient(endpoint.Client{Settings: &p.config.Settings, Pool: pool})
	return p, err
}

// Traits implements session.Store: revoking a Vault token also revokes its leases.
func (p *Provider) Traits() session.Traits {
	return session.Traits{RevokesTokens: true, StateVersion: 1}
}

// Identify implements session.Store.
func (p *Provider) Identify(s *session.Spec, b session.Bearer, claims identity.Claims) session.Identity {
	i := session.Identity{Login: s.Login, Namespace: b.Pod.Namespace, ServiceAccount: b.Pod.ServiceAccount, ServiceAccountUID: claims.ServiceAccountUID}
	if claims.ServiceAccountUID == "" || loginOf(s.Login).Sharing == sharePod {
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
