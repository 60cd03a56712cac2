package session

import (
	"context"
	"errors"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/parallel"
)

// Release implements provider.Releaser. It cancels a Fetch of the volume, and revokes what
// was issued for this volume alone, and for an identity whose last volume this was.
//
// It takes at most Settings.ReleaseTimeout, also while the store still issues a
// credential. It keeps what it could not revoke and returns an error, so that the caller
// tries again; Export and Import keep that over a restart. It succeeds for an unknown
// volume.
func (e *Engine) Release(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, e.config.ReleaseTimeout)
	defer cancel()
	e.specs.Leave(id)
	return e.volumes.release(ctx, id, func(v *volume) ([]Revocation, error) {
		if err := v.detached.wait(ctx); err != nil {
			return nil, err
		}
		state, list := v.now(), v.finish()
		if e.config.DisableRevocation {
			return nil, nil
		}
		r := e.newRevoker(ctx, v, state)
		return revokeAll(list, func(one Revocation) error { return r.revoke(ctx, one) })
	})
}

// revokeAll revokes each in parallel. It returns those that it could not revoke, and the
// errors.
func revokeAll(list []Revocation, revoke func(Revocation) error) (left []Revocation, err error) {
	var mu sync.Mutex
	var failed []error
	parallel.Each(list, func(r Revocation) {
		if err := revoke(r); err != nil {
			mu.Lock()
			defer mu.Unlock()
			left, failed = append(left, r), append(failed, err)
		}
	})
	return left, errors.Join(failed...)
}

// revoker revokes with the tokens of a volume's login, or with new ones if the class has
// changed its login since.
type revoker struct {
	engine      *Engine
	volume      *volume
	group       *group // may be nil
	bearer      Bearer
	correlation string

	mu     sync.Mutex
	tokens map[Login]*Token
}

func (e *Engine) newRevoker(ctx context.Context, v *volume, s identityState) *revoker {
	return &revoker{engine: e, volume: v, group: s.group, bearer: s.bearer, correlation: correlationOf(ctx), tokens: map[Login]*Token{}}
}

// revoke revokes a token with all its leases, or a credential.
func (r *revoker) revoke(ctx context.Context, one Revocation) error {
	if !one.alive(r.engine.config.Now()) || one.Token != nil && !one.Token.Take(0) {
		return nil // it has expired
	}
	c := &Caller{Bearer: r.bearer, Volume: r.volume.id, Login: one.Login, Correlation: r.correlation, Began: r.engine.config.Now()}
	if c.Pod.Namespace == "" {
		c.Pod.Namespace = r.volume.owner.Namespace
	}
	s, err := r.engine.store.Open(ctx, c)
	if err == nil {
		err = s.Revoke(ctx, one, func(ctx context.Context, again bool) (*Token, error) { return r.token(ctx, c, s, again) })
	}
	if err != nil && one.Token != nil {
		one.Token.giveBack()
	}
	return err
}

func (r *revoker) token(ctx context.Context, c *Caller, s Session, again bool) (*Token, error) {
	l := c.Login
	r.mu.Lock()
	defer r.mu.Unlock()
	if t := r.tokens[l]; t != nil {
		return t, nil
	}
	if !again && r.group != nil && r.group.key.Login == l {
		if t := r.group.token(r.engine.config.Now(), nil); t != nil {
			return t, nil
		}
	}
	t, _, err := c.logIn(ctx, s)
	if err != nil {
		return nil, err
	}
	r.tokens[l] = t
	return t, nil
}
