package session

import (
	"context"
	"errors"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// errPodBound tells that the identity turned out to be the pod's own.
var errPodBound = errors.New("the login is bound to the pod")

func isPodBound(err error) bool { return errors.Is(err, errPodBound) }

// token is the group's token for a read: the one that is there, renewed if it
// is due, or that of a new login. A stale one is not taken, and neither is one
// whose uses are spent.
func (f *run) token(ctx context.Context, g *group, stale *Token) (*Token, error) {
	for {
		t, err := f.currentToken(ctx, g, stale)
		if err != nil || t.Take(0) {
			return t, err
		}
		stale = t // others were faster
	}
}

func (f *run) currentToken(ctx context.Context, g *group, stale *Token) (*Token, error) {
	if t := g.current.get(f.now(), stale); t != nil {
		if due, _ := t.isDue(f.now()); !due {
			return t, nil
		}
	}
	t, _, err := g.logins.Do(ctx, struct{}{}, f.now, time.Time{}, func() (*Token, error) {
		old := g.current.get(f.now(), stale)
		if old != nil && f.extended(ctx, old) {
			return old, nil
		}
		t, err := f.logInGroup(ctx, g)
		if err != nil && old != nil && (fault.Of(err).Outage() || fault.Of(err) == fault.NoToken) {
			f.config.Logger.Warn("the login could not be renewed, so the old one goes on", logkey.Pod, f.caller.Pod.String(), logkey.Error, err)
			return old, nil
		}
		return t, err
	})
	return t, err
}

// extended renews a token that is due. It tells whether the token is good for
// further use without a new login.
func (f *run) extended(ctx context.Context, t *Token) bool {
	due, final := t.isDue(f.now())
	if !due {
		return true
	}
	if final {
		return false
	}
	if err := f.renewToken(ctx, t); err != nil {
		return fault.Of(err).Outage() && t.alive(f.now()) // it still lives: the read tells more
	}
	due, _ = t.isDue(f.now())
	return !due
}

func (f *run) renewToken(ctx context.Context, t *Token) error {
	s, ok := f.session.(Renewer)
	if !ok {
		return fault.New(fault.Rejected, "renewing a token: the store renews none")
	}
	began := time.Now()
	ttl, err := s.RenewToken(ctx, t)
	f.caller.noteAccess(ctx, provider.AccessRenew, "", began, err)
	if err == nil {
		t.extend(f.now(), ttl, f.chance())
	}
	return err
}

// keepAlive renews the token that leases hang on when it is due, and tells
// whether it can be relied on until it is due again. That the store could not be
// asked is an error; that it refuses means a new token.
func (f *run) keepAlive(ctx context.Context, s *credentials, t *Token) (bool, error) {
	due, final := t.isDue(f.now())
	if !due || final || !t.alive(f.now()) {
		return !due && t.alive(f.now()), nil
	}
	alive, _, err := s.renewals.Do(ctx, t, f.now, time.Time{}, func() (bool, error) {
		err := f.renewToken(ctx, t)
		switch {
		case err == nil:
			due, _ := t.isDue(f.now())
			return !due, nil
		case fault.Of(err).Outage(), fault.Of(err) == fault.Canceled:
			return false, err
		}
		// It may be gone, and its leases with it; or it may only not renew
		// itself, and is still to be revoked in the end.
		t.giveUp()
		return false, nil
	})
	return alive, err
}

// logInGroup logs in for the group. Where the answer shows that the identity
// is the pod's own, the token goes to the pod's group instead.
func (f *run) logInGroup(ctx context.Context, g *group) (*Token, error) {
	if g.key.Pod == "" && f.bound.Has(g.key.Login) {
		return nil, errPodBound
	}
	t, bound, err := f.logIn(ctx)
	if err != nil {
		return nil, err
	}
	if bound && g.key.Pod == "" {
		f.bound.Set(g.key.Login, struct{}{})
		f.replaceToken(f.rejoin(), t)
		return nil, errPodBound
	}
	f.replaceToken(g, t)
	return t, nil
}

// replaceToken makes t the group's token. An earlier one that still lives is
// revoked with this volume, since others may be in the middle of using it.
func (f *run) replaceToken(g *group, t *Token) {
	if old := g.current.replace(t); old != nil && old.alive(f.now()) && f.groups.revokesTokens {
		f.volume.Add([]Revocation{{Login: old.Login, Token: old}})
	}
}

// logInFor logs in for credentials. Where the answer shows that the identity is
// the pod's own, nothing goes into what the service account's pods share: the
// token goes to the credentials of the pod's group.
func (f *run) logInFor(ctx context.Context, s *credentials) (*Token, error) {
	state := f.volume.now()
	g, own := state.group, s == state.credentials
	if !own && (s != g.credentials || g.key.Pod == "" && f.bound.Has(g.key.Login)) {
		return nil, errPodBound
	}
	t, bound, err := f.logIn(ctx)
	if err != nil {
		return nil, err
	}
	if bound && g.key.Pod == "" {
		f.bound.Set(g.key.Login, struct{}{})
		if !own {
			f.rejoin().credentials.addToken(t)
			return nil, errPodBound
		}
	}
	s.addToken(t)
	return t, nil
}

// logIn logs in as the pod. A login that was refused is not tried again in the
// same run.
func (f *run) logIn(ctx context.Context) (t *Token, podBound bool, err error) {
	f.mu.Lock()
	refused := f.loginRefused
	f.mu.Unlock()
	if refused != nil {
		return nil, false, refused
	}
	t, podBound, err = f.caller.logIn(ctx, f.session)
	if err == nil {
		return t, podBound, nil
	}
	if t != nil {
		f.volume.Add([]Revocation{{Login: t.Login, Token: t}})
	}
	if reason := fault.Of(err); !reason.Outage() && reason != fault.Canceled {
		f.mu.Lock()
		f.loginRefused = err
		f.mu.Unlock()
	}
	return nil, false, err
}

// rejoin follows what a login taught about the identity.
func (f *run) rejoin() *group {
	f.rejoining.Lock()
	defer f.rejoining.Unlock()
	key := f.volume.now().group.key
	if f.bound.Has(key.Login) {
		key.Pod = f.caller.Pod.UID
	}
	f.enter(f.volume, key, f.caller.Bearer)
	return f.volume.now().group
}
