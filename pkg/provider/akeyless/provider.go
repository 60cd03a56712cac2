package akeyless

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// Provider is Akeyless' part of the engine of package session.
type Provider struct {
	*session.Engine
	config   Config
	operator endpoint.Operator
	client   *client
	policy   params.Policy // for the addresses of classes
	known    knownItems
}

var _ session.Store = (*Provider)(nil)

// New checks the configuration. It starts nothing and sends no request.
func New(c Config) (*Provider, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	own := endpoint.Default{What: "gateway", Given: c.DefaultGateway, Otherwise: PublicAddress, Parse: endpoint.ParseAddress}
	operator, err := c.Operator(own)
	if err != nil {
		return nil, fmt.Errorf("akeyless: %w", err)
	}
	p := &Provider{config: c, operator: operator}
	pool, err := c.NewPool(&p.config.Settings, settingNames(), operator, own)
	if err != nil {
		return nil, fmt.Errorf("akeyless: %w", err)
	}
	p.policy = params.Policy{Pool: pool, Servers: &p.config.Servers, AllowedFlag: "--akeyless-allowed-addresses"}
	p.client = &client{endpoint.Client{Settings: &p.config.Settings, Pool: pool}, c.Clouds}
	p.Engine = session.New(&p.config.Settings, pool, p)
	return p, nil
}

// Traits implements session.Store: a credential is revoked by its id, with any login.
func (p *Provider) Traits() session.Traits { return session.Traits{StateVersion: 2} }

// Identify implements session.Store.
func (p *Provider) Identify(s *session.Spec, b session.Bearer, claims identity.Claims) session.Identity {
	l := loginOf(s.Login)
	i := session.Identity{Login: s.Login, Namespace: b.Pod.Namespace, ServiceAccount: b.Pod.ServiceAccount}
	if !l.Type.asPod() {
		i.Credential = p.keyed(b.Given.Reveal())
		if l.Sharing == sharePod {
			i.Pod = b.Pod.UID
		}
		return i
	}
	i.ServiceAccountUID = claims.ServiceAccountUID
	shared := l.Sharing == shareServiceAccount || (l.Sharing == "" && (p.config.ShareByServiceAccount || !l.Type.seesPod()))
	if !shared || i.ServiceAccountUID == "" {
		i.Pod = b.Pod.UID
	}
	return i
}

// keyed returns a hash that cannot be computed without the key.
func (p *Provider) keyed(parts ...string) string {
	mac := hmac.New(sha256.New, p.config.IdentityKey.Reveal())
	for _, part := range parts {
		var size [8]byte
		for i := range size {
			size[i] = byte(len(part) >> (8 * i))
		}
		mac.Write(size[:])
		mac.Write([]byte(part))
	}
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
