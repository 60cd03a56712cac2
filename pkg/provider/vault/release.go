package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Release implements provider.Releaser. It revokes the Vault tokens that were
// logged in for this volume alone, and with them their leases, and those of an
// identity whose last volume this was. A Fetch that is still running ends.
//
// It takes no longer than Config.RevokeTimeout. What could not be revoked is
// kept, and the error tells the caller to call again; Export and Import carry
// it over a restart. A volume that is not known has nothing to release.
func (p *Provider) Release(ctx context.Context, id string) error {
	v := p.volumes.find(id)
	if v == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.config.RevokeTimeout)
	defer cancel()
	v.end()
	if err := v.enter(ctx); err != nil {
		return fault.New(fault.Of(err), "releasing volume %s: a fetch of it still runs: %w", id, err)
	}
	defer v.leave()

	tokens := append(v.takeTokens(), p.groups.leave(v.currentGroup(), id)...)
	if p.config.DisableRevocation {
		tokens = nil
	}
	left, err := p.revokeAll(ctx, tokens)
	if err != nil {
		p.volumes.giveBack(v, left)
		return fmt.Errorf("releasing volume %s: %w", id, err)
	}
	if p.volumes.remove(v) == 0 {
		p.endpoints.close()
	}
	return nil
}

// revokeAll ends the tokens, and returns those that it could not.
func (p *Provider) revokeAll(ctx context.Context, tokens []*token) ([]*token, error) {
	var mu sync.Mutex
	var left []*token
	var failed []error
	var work errgroup.Group
	work.SetLimit(parallel)
	correlation := newCorrelation()
	for _, t := range tokens {
		work.Go(func() error {
			if err := p.revoke(ctx, t, correlation); err != nil {
				mu.Lock()
				defer mu.Unlock()
				left, failed = append(left, t), append(failed, err)
			}
			return nil
		})
	}
	_ = work.Wait()
	return left, errors.Join(failed...)
}

// revoke ends a token and all that hangs on it. One that the store refuses is
// over already; one that cannot be revoked, as a batch token, ends by itself.
func (p *Provider) revoke(ctx context.Context, t *token, correlation string) error {
	if !t.alive(p.config.Now()) {
		return nil
	}
	e, err := p.endpoints.get(t.login.target, &p.config)
	if err != nil {
		return err
	}
	_, err = p.client.do(ctx, call{
		endpoint: e, namespace: t.login.namespace, token: t.value, method: http.MethodPost, path: "auth/token/revoke-self",
		correlation: correlation, secrets: []secret.String{t.value},
	})
	switch fault.Of(err) {
	case fault.Denied, fault.NotFound, fault.Rejected:
		return nil
	}
	if err != nil {
		return fmt.Errorf("revoking a Vault token: %w", err)
	}
	return nil
}
