package akeyless

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// Release implements provider.Releaser. It ends the dynamic credentials that
// were made for this volume, those that newer ones took the place of included,
// and those of an identity whose last volume this was. A Fetch that is still
// running ends.
//
// It takes no longer than Config.ReleaseTimeout, also while a producer still
// works on a credential. What could not be ended is
// kept, and the error tells the caller to call again; Export and Import carry
// it over a restart. A volume that is not known has nothing to release.
func (p *Provider) Release(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, p.config.ReleaseTimeout)
	defer cancel()
	p.specs.Leave(id)
	return p.volumes.Release(ctx, id, func(v *volume) ([]*minted, error) {
		if err := v.made(ctx); err != nil {
			return nil, err
		}
		g, b := v.identity()
		list := v.TakeDebts()
		for _, s := range v.takeStands() {
			s.readings.Close()
			list = append(list, p.groups.leave(s.group, id)...)
		}
		if p.config.DisableRevocation {
			return nil, nil
		}
		list = slices.DeleteFunc(list, func(m *minted) bool { return !m.endable(p.now()) })
		tokens := releaser{Provider: p, group: g, bearer: b, byLogin: map[login]*token{}}
		return session.Settle(list, func(m *minted) error { return tokens.endOne(ctx, m) })
	})
}

// releaser ends credentials with the volume's login, or with new ones where
// the class changed its login meanwhile.
type releaser struct {
	*Provider
	group  *group
	bearer bearer

	mu      sync.Mutex
	byLogin map[login]*token
}

func (r *releaser) token(ctx context.Context, l login, fresh bool) (*token, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.byLogin[l]; t != nil {
		return t, nil
	}
	if !fresh && r.group != nil && r.group.key.Login == l {
		if t := r.group.login.Current(r.now(), nil); t != nil {
			return t, nil
		}
	}
	t, err := r.logIn(ctx, l, r.bearer)
	if err == nil {
		r.byLogin[l] = t
	}
	return t, err
}

// endOne ends a credential. One that the store does not know is over already.
// Where the store refuses, or the pod has nothing left to log in with, it ends
// by its time to live: to try again would not help.
func (r *releaser) endOne(ctx context.Context, m *minted) error {
	err := r.tryEnd(ctx, m, false)
	if errors.Is(err, errUnauthorized) {
		err = r.tryEnd(ctx, m, true)
	}
	switch reason := fault.Of(err); {
	case err == nil, reason == fault.NotFound:
		return nil
	case reason.Outage(), reason == fault.Canceled, reason == fault.Internal:
		return fmt.Errorf("ending credential %q of dynamic item %q: %w", m.ID, m.Name, err)
	}
	r.config.Logger.Warn("a dynamic credential could not be ended, so it lives out its time", "item", m.Name, "credential", m.ID, "ends", m.Ends, "error", err)
	return nil
}

func (r *releaser) tryEnd(ctx context.Context, m *minted, fresh bool) error {
	t, err := r.token(ctx, m.Login, fresh)
	if err != nil {
		return err
	}
	e, err := r.endpoints.Get(ctx, m.Login.Target, r.now())
	if err != nil {
		return err
	}
	body := map[string]any{"name": m.Name, "tmp-creds-id": m.ID, "token": t.value.Reveal()}
	_, err = r.do(ctx, call{
		endpoint: e, operation: endpoint.OpRevoke, tenant: r.bearer.pod.Namespace, path: "/dynamic-secret-tmp-creds-delete", body: body,
		about: "/dynamic-secret-tmp-creds-delete " + m.Name, secrets: r.bearer.secrets(t),
	})
	return err
}
