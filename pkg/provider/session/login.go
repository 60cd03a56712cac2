package session

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

// errPodBound tells that the identity turned out to be the pod's own.
var errPodBound = errors.New("the login is bound to the pod")

// leastHorizon keeps a volume whose means to log in run out from being looked at
// without a pause.
const leastHorizon = time.Minute

// logins give one run its tokens: that of the volume's group, with which it reads,
// and those that the leases of credentials hang on.
type logins struct {
	config  *endpoint.Settings
	groups  *groups
	caller  *Caller
	session Session
	volume  *volume

	rejoining sync.Mutex
	mu        sync.Mutex
	// refused is why the store refused the login; nil if it did not.
	refused error
	// loggedIn tells that the run has logged in, joined that it waited for the login
	// of another volume.
	loggedIn, joined bool
}

// count counts a login of another volume that served this one: for a new volume
// any, for a live one only a new login. Its own are counted where they are made.
func (l *logins) count() {
	l.mu.Lock()
	shared := !l.loggedIn && (l.joined || !l.caller.Live)
	l.mu.Unlock()
	if shared {
		l.config.OnShared(endpoint.OpLogin, true)
	}
}

// token is the group's token for a read: the one that is there, renewed if it
// is due, or that of a new login. A stale one is not taken, and neither is one
// whose uses are spent.
func (l *logins) token(ctx context.Context, g *group, stale *Token) (*Token, error) {
	for {
		t, err := l.currentToken(ctx, g, stale)
		if err != nil || t.Take(0) {
			return t, err
		}
		stale = t // others were faster
	}
}

func (l *logins) currentToken(ctx context.Context, g *group, stale *Token) (*Token, error) {
	if t := g.current.get(l.config.Now(), stale); t != nil {
		if due, _ := t.isDue(l.config.Now()); !due {
			return t, nil
		}
	}
	t, led, err := g.logins.Do(ctx, struct{}{}, l.config.Now, time.Time{}, func() (*Token, error) {
		old := g.current.get(l.config.Now(), stale)
		if old != nil && l.extended(ctx, old) {
			return old, nil
		}
		t, err := l.shared(ctx, g, l.replaceToken)
		if err != nil && old != nil && (fault.Of(err).Outage() || fault.Of(err) == fault.NoToken) {
			l.config.Logger.Warn("the login could not be renewed, so the old one goes on", logkey.Pod, l.caller.Pod.String(), logkey.Error, err)
			return old, nil
		}
		return t, err
	})
	if err == nil && !led {
		l.mu.Lock()
		l.joined = true
		l.mu.Unlock()
	}
	return t, err
}

// extended renews a token that is due. It tells whether the token is good for
// further use without a new login.
func (l *logins) extended(ctx context.Context, t *Token) bool {
	due, final := t.isDue(l.config.Now())
	if !due {
		return true
	}
	if final {
		return false
	}
	if err := l.renew(ctx, t); err != nil {
		return fault.Of(err).Outage() && t.alive(l.config.Now()) // it still lives: the read tells more
	}
	due, _ = t.isDue(l.config.Now())
	return !due
}

func (l *logins) renew(ctx context.Context, t *Token) error {
	s, ok := l.session.(Renewer)
	if !ok {
		return fault.New(fault.Rejected, "renewing a token: the store renews none")
	}
	began := time.Now()
	ttl, err := s.RenewToken(ctx, t)
	l.caller.noteAccess(ctx, provider.AccessRenew, "", began, err)
	if err == nil {
		t.extend(l.config.Now(), ttl, l.config.Jitter())
	}
	return err
}

// keepAlive renews the token that leases hang on when it is due, and tells
// whether it can be relied on until it is due again. That the store could not be
// asked is an error; that it refuses means a new token.
func (l *logins) keepAlive(ctx context.Context, s *credentials, t *Token) (bool, error) {
	due, final := t.isDue(l.config.Now())
	if !due || final || !t.alive(l.config.Now()) {
		return !due && t.alive(l.config.Now()), nil
	}
	alive, _, err := s.renewals.Do(ctx, t, l.config.Now, time.Time{}, func() (bool, error) {
		err := l.renew(ctx, t)
		switch {
		case err == nil:
			due, _ := t.isDue(l.config.Now())
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

// parent is the token for the next of some credentials: the newest, kept alive, or
// that of a new login.
func (l *logins) parent(ctx context.Context, s *credentials, stale *Token) (*Token, error) {
	t, _, err := s.logins.Do(ctx, struct{}{}, l.config.Now, time.Time{}, func() (*Token, error) {
		if t := s.parent(l.config.Now()); t != nil && t != stale {
			alive, err := l.keepAlive(ctx, s, t)
			if err != nil || alive {
				return t, err
			}
		}
		state := l.volume.now()
		switch s {
		case state.credentials:
			t, _, err := l.logIn(ctx, state.group.key)
			if err == nil {
				s.addToken(t)
			}
			return t, err
		case state.group.credentials:
			return l.shared(ctx, state.group, func(g *group, t *Token) { g.credentials.addToken(t) })
		}
		return nil, errPodBound // it turned out to be for others
	})
	return t, err
}

// shared logs in for all who share a group, which put gives the token to. Where the
// answer shows that the identity is the pod's own, nothing goes into what the
// service account's pods share: the token goes to the pod's group.
func (l *logins) shared(ctx context.Context, g *group, put func(*group, *Token)) (*Token, error) {
	if g.key.Pod == "" && l.groups.isPodBound(g.key.Login) {
		return nil, errPodBound
	}
	t, podBound, err := l.logIn(ctx, g.key)
	if err != nil {
		return nil, err
	}
	if podBound {
		put(l.rejoin(), t)
		return nil, errPodBound
	}
	put(g, t)
	return t, nil
}

// replaceToken makes t the group's token. An earlier one that still lives is
// revoked with this volume, since others may be in the middle of using it.
func (l *logins) replaceToken(g *group, t *Token) {
	if old := g.current.replace(t); old != nil && old.alive(l.config.Now()) && l.groups.revokesTokens {
		l.volume.add([]Revocation{{Login: old.Login, Token: old}})
	}
}

// logIn logs in as the pod. podBound tells that the identity is the pod's own, and
// was not taken for it. A login that was refused is not tried again in the same
// run.
func (l *logins) logIn(ctx context.Context, key Identity) (t *Token, podBound bool, err error) {
	l.mu.Lock()
	refused := l.refused
	l.mu.Unlock()
	if refused != nil {
		return nil, false, refused
	}
	t, podBound, err = l.caller.logIn(ctx, l.session)
	if err == nil {
		l.mu.Lock()
		l.loggedIn = true
		l.mu.Unlock()
		l.config.OnShared(endpoint.OpLogin, false)
		podBound = podBound && key.Pod == ""
		if podBound {
			l.groups.setPodBound(key.Login)
		}
		return t, podBound, nil
	}
	if t != nil {
		l.volume.add([]Revocation{{Login: t.Login, Token: t}})
	}
	if reason := fault.Of(err); !reason.Outage() && reason != fault.Canceled {
		l.mu.Lock()
		l.refused = err
		l.mu.Unlock()
	}
	return nil, false, err
}

// rejoin follows what a login taught about the identity.
func (l *logins) rejoin() *group {
	l.rejoining.Lock()
	defer l.rejoining.Unlock()
	l.volume.enter(l.groups.corrected(l.volume.now().group.key, l.caller.Bearer), l.caller.Bearer)
	return l.volume.now().group
}

// horizon is when to look again so that there is always a way to revoke what
// the volume has: before both the store's token and the pod's service account
// token have expired, kubelet has passed a new one of the latter. Zero where
// nothing needs it.
func (l *logins) horizon(s *Spec) time.Time {
	now, state := l.config.Now(), l.volume.now()
	if l.config.DisableRevocation || !s.AsPod || !(state.credentials.revocable(now) || state.group.credentials.revocable(now)) {
		return time.Time{}
	}
	until := l.caller.Tokens[l.caller.Audience].Expires
	if until.IsZero() {
		return time.Time{}
	}
	if t := state.group.current.get(now, nil); t != nil && t.Expires().After(until) {
		until = t.Expires()
	}
	due := twoThirds(now, until, l.config.Jitter())
	if least := now.Add(leastHorizon); due.Before(least) {
		return least
	}
	return due
}
