package vault

import (
	"context"
	"fmt"
	"net/http"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Release implements provider.Releaser. It revokes the Vault tokens that were
// logged in for this volume alone, and with them their leases, and those of an
// identity whose last volume this was. A Fetch that is still running ends.
//
// It takes no longer than Config.ReleaseTimeout. What could not be revoked is
// kept, and the error tells the caller to call again; Export and Import carry
// it over a restart. A volume that is not known has nothing to release.
func (p *Provider) Release(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, p.config.ReleaseTimeout)
	defer cancel()
	p.specs.Leave(id)
	return p.volumes.Release(ctx, id, func(v *volume) ([]*token, error) {
		v.answers().Close()
		tokens := append(v.TakeDebts(), p.groups.leave(v.currentGroup(), id)...)
		if s := v.takeAside(); s != nil {
			s.readings.Close()
			tokens = append(tokens, p.groups.leave(s.group, id)...)
		}
		if p.config.DisableRevocation {
			return nil, nil
		}
		correlation, tenant := newCorrelation(), v.owner.Namespace
		return session.Settle(tokens, func(t *token) error { return p.revoke(ctx, t, tenant, correlation) })
	})
}

// revoke ends a token and all that hangs on it. One that the store refuses is
// over already; one that cannot be revoked, as a batch token, ends by itself.
func (p *Provider) revoke(ctx context.Context, t *token, tenant, correlation string) error {
	if !t.alive(p.config.Now()) || !t.take(0) { // it is over
		return nil
	}
	e, err := p.endpoints.Get(ctx, t.login.target, p.config.Now())
	if err != nil {
		return err
	}
	_, err = p.client.do(ctx, call{
		endpoint: e, operation: endpoint.OpRevoke, namespace: t.login.namespace, tenant: tenant, token: t.value, method: http.MethodPost, path: "auth/token/revoke-self",
		correlation: correlation, secrets: []secret.String{t.value},
	})
	switch fault.Of(err) {
	case fault.Denied:
		if p.learned.firstUnrevoked(t.login) {
			p.config.Logger.Warn("Vault did not let a pod's token revoke itself, so what hangs on it lives until its time to live; the token may be over already, or its policies lack update on auth/token/revoke-self, which the default policy has",
				"address", t.login.target.Address.String(), "namespace", t.login.namespace, "mount", t.login.mount, "role", t.login.role)
		}
		return nil
	case fault.NotFound, fault.Rejected:
		return nil
	}
	if err != nil {
		t.giveBack()
		return fmt.Errorf("revoking a Vault token: %w", err)
	}
	return nil
}
