package session

import (
	"context"
	"slices"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// Release implements provider.Releaser. It revokes what was issued for this
// volume alone, and for an identity whose last volume this was, and so ends
// what hangs on it. A Fetch that is still running ends.
//
// It takes no longer than Settings.ReleaseTimeout, also while the store still
// works on a credential. What could not be revoked is kept, and the error tells
// the caller to call again; Export and Import carry it over a restart. A volume
// that is not known has nothing to release.
func (e *Engine) Release(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, e.config.ReleaseTimeout)
	defer cancel()
	e.specs.Leave(id)
	return e.volumes.Release(ctx, id, func(v *volume) ([]Revocation, error) {
		if err := v.issued(ctx); err != nil {
			return nil, err
		}
		state := v.now()
		state.readings.Close()
		list := append(v.Take(), e.groups.leave(state.group, id)...)
		if s := v.takeSuperseded(); s != nil {
			s.readings.Close()
			list = append(list, e.groups.leave(s.group, id)...)
		}
		if e.config.DisableRevocation {
			return nil, nil
		}
		r := e.newRevoker(ctx, v, state)
		return RevokeAll(list, func(one Revocation) error { return r.revoke(ctx, one) })
	})
}

// revoker revokes with the tokens of a volume's login, or with new ones where
// the class changed its login meanwhile.
type revoker struct {
	*Engine
	volume      *volume
	group       *group // may be nil
	bearer      Bearer
	correlation string

	mu     sync.Mutex
	tokens map[Login]*Token
}

func (e *Engine) newRevoker(ctx context.Context, v *volume, s identityState) *revoker {
	return &revoker{Engine: e, volume: v, group: s.group, bearer: s.bearer, correlation: correlationOf(ctx), tokens: map[Login]*Token{}}
}

// revoke ends a token and all that hangs on it, or a credential.
func (r *revoker) revoke(ctx context.Context, one Revocation) error {
	if !one.alive(r.config.Now()) || one.Token != nil && !one.Token.Take(0) {
		return nil // it has expired
	}
	c := &Caller{Bearer: r.bearer, Volume: r.volume.id, Login: one.Login, Correlation: r.correlation, Began: r.config.Now()}
	if c.Pod.Namespace == "" {
		c.Pod.Namespace = r.volume.owner.Namespace
	}
	s, err := r.store.Open(ctx, c)
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
		if t := r.group.current.get(r.config.Now(), nil); t != nil {
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

// revokeOrphans revokes what was issued for a volume that ended meanwhile, or
// hands it to the new one of its id.
func (f *issuer) revokeOrphans() {
	state := f.volume.now()
	v := f.volumes.Find(f.volume.id)
	switch {
	case v == f.volume && v.owns(f.set), state.group != nil && f.set == state.group.credentials && f.groups.Find(state.group.key) == state.group:
		return
	case v != nil:
		v.Add(f.set.take())
		return
	case f.config.DisableRevocation:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), f.config.ReleaseTimeout)
	defer cancel()
	r := f.newRevoker(ctx, f.volume, state)
	for _, one := range f.set.take() {
		if err := r.revoke(ctx, one); err != nil {
			f.config.Logger.Warn("a credential that was issued after its volume had gone could not be revoked", logkey.Name, one.Name, logkey.Lease, one.LeaseID, logkey.Ends, one.Expires, logkey.Error, err)
		}
	}
}

// await notes that something is being issued for the volume, and that nobody
// waits for it.
func (v *volume) await(ended <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.issuing = append(slices.DeleteFunc(v.issuing, isClosed), ended)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// issued waits until nothing is being issued for the volume any longer.
func (v *volume) issued(ctx context.Context) error {
	v.mu.Lock()
	issuing := slices.Clone(v.issuing)
	v.mu.Unlock()
	for _, c := range issuing {
		select {
		case <-c:
		case <-ctx.Done():
			return fault.New(fault.Timeout, "the store still works on a credential for the volume, which is revoked once it is there: %w", fault.Ended(ctx))
		}
	}
	return nil
}
