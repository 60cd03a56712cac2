package session

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
)

// errPodBound says that the identity depends on the pod.
var errPodBound = errors.New("the login is bound to the pod")

// leastHorizon is the least pause of a volume whose means to log in expire.
const leastHorizon = time.Minute

// logins has the tokens of one run: that of the volume's group for reads, and those of
// leased credentials.
type logins struct {
	config  *endpoint.Settings
	groups  *groups
	caller  *Caller
	session Session
	volume  *volume

	rejoining sync.Mutex
	// refused is why the store refused the login; nil if it did not.
	refused atomic.Pointer[error]
	// loggedIn says that the run has logged in, and joined that it waited for the login of
	// another volume.
	loggedIn, joined atomic.Bool
}

// count counts a login of another volume that this one used: for a new volume any, for a
// live one only a new login. Its own logins are counted where they are sent.
func (l *logins) count() {
	if !l.loggedIn.Load() && (l.joined.Load() || !l.caller.Live) {
		l.config.OnShared(endpoint.OpLogin, true)
	}
}

// token returns the group's token for a read: the current one, renewed if it is due, or
// that of a new login. It does not return a stale token, or one without uses.
func (l *logins) token(ctx context.Context, g *group, stale *Token) (*Token, error) {
	for {
		t, err := l.currentToken(ctx, g, stale)
		if err != nil || t.Take(0) {
			return t, err
		}
		stale = t // another caller was faster
	}
}

func (l *logins) currentToken(ctx context.Context, g *group, stale *Token) (*Token, error) {
	if t := g.token(l.config.Now(), stale); t != nil {
		if due, _ := t.isDue(l.config.Now()); !due {
			return t, nil
		}
	}
	t, led, err := g.logins.Do(ctx, struct{}{}, l.config.Now, time.Time{}, func() (*Token, error) {
		old := g.token(l.config.Now(), stale)
		if old != nil && l.extended(ctx, old) {
			return old, nil
		}
		t, err := l.shared(ctx, g, l.replaceToken)
		l.revoke(ctx, l.volume.takeIdle(l.caller.Login))
		if err != nil && old != nil && (fault.Of(err).Outage() || fault.Of(err) == fault.NoToken) {
			l.config.Logger.Warn("the login could not be renewed, so the old one goes on", logkey.Pod, l.caller.Pod.String(), logkey.Error, err)
			return old, nil
		}
		return t, err
	})
	if err == nil && !led {
		l.joined.Store(true)
	}
	return t, err
}

// extended renews a token that is due. It reports whether the token can be used without a
// new login.
func (l *logins) extended(ctx context.Context, t *Token) bool {
	due, final := t.isDue(l.config.Now())
	if !due {
		return true
	}
	if final {
		return false
	}
	if err := l.renew(ctx, t); err != nil {
		return fault.Of(err).Outage() && t.alive(l.config.Now()) // it is still valid: the read finds out
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

// keepAlive renews the token of leases if it is due, and reports whether it stays valid
// until it is due again. It returns an error if the store could not be asked, and false if
// the store refuses.
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
		// The token may be revoked, and its leases with it. Or it may not renew itself,
		// and must still be revoked at the end.
		t.giveUp()
		return false, nil
	})
	return alive, err
}

// parent returns the token for the next credentials of a set: the newest one, renewed, or
// that of a new login.
func (l *logins) parent(ctx context.Context, s *credentials, stale *Token) (*Token, error) {
	t, _, err := s.logins.Do(ctx, struct{}{}, l.config.Now, time.Time{}, func() (*Token, error) {
		if t := s.parent(l.config.Now()); t != nil && t != stale {
			alive, err := l.keepAlive(ctx, s, t)
			if err != nil || alive {
				return t, err
			}
		}
		defer func() { l.revoke(ctx, s.takeIdle(l.caller.Login)) }()
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
		return nil, errPodBound // the login has changed the identity
	})
	return t, err
}

// shared logs in for all volumes of a group; put gives the token to the group. If the
// answer shows that the identity depends on the pod, the token goes to the pod's own
// group, and nothing to the service account's.
func (l *logins) shared(ctx context.Context, g *group, put func(*group, *Token)) (*Token, error) {
	if g.key.Pod == "" && l.groups.podBound.Has(g.key.Login) {
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

// replaceToken makes t the group's token. An earlier one that is still valid is revoked
// with this volume, because other volumes may be using it.
func (l *logins) replaceToken(g *group, t *Token) {
	if old := g.current.Swap(t); old != nil && old.alive(l.config.Now()) && l.groups.revokesTokens {
		l.volume.add([]Revocation{{Login: old.Login, Token: old}})
	}
}

// revoke revokes tokens before the end of the volume. Those that it cannot revoke now are
// revoked with the volume.
func (l *logins) revoke(ctx context.Context, tokens []*Token) {
	for _, t := range tokens {
		one := Revocation{Login: t.Login, Token: t}
		if l.config.DisableRevocation || !t.Take(0) {
			continue
		}
		if err := l.session.Revoke(ctx, one, nil); err != nil {
			t.giveBack()
			l.volume.add([]Revocation{one})
		}
	}
}

// logIn logs in as the pod. podBound says that the identity depends on the pod and was not
// known to. A refused login is not repeated in the same run.
func (l *logins) logIn(ctx context.Context, key Identity) (t *Token, podBound bool, err error) {
	if refused := l.refused.Load(); refused != nil {
		return nil, false, *refused
	}
	t, podBound, err = l.caller.logIn(ctx, l.session)
	if err == nil {
		l.loggedIn.Store(true)
		l.config.OnShared(endpoint.OpLogin, false)
		podBound = podBound && key.Pod == ""
		if podBound {
			l.groups.podBound.Set(key.Login, struct{}{})
		}
		return t, podBound, nil
	}
	if t != nil {
		l.volume.add([]Revocation{{Login: t.Login, Token: t}})
	}
	if reason := fault.Of(err); !reason.Outage() && reason != fault.Canceled {
		l.refused.Store(&err)
	}
	return nil, false, err
}

// rejoin changes the volume's group after a login has shown more about the identity.
func (l *logins) rejoin() *group {
	l.rejoining.Lock()
	defer l.rejoining.Unlock()
	l.volume.enter(l.groups.corrected(l.volume.now().group.key, l.caller.Bearer), l.caller.Bearer)
	return l.volume.now().group
}

// horizon returns when to refresh so that there is always a way to revoke the volume's
// credentials: before both the store's token and the pod's service account token expire,
// because kubelet has passed a new one by then. Zero if nothing needs that.
func (l *logins) horizon() time.Time {
	now, state := l.config.Now(), l.volume.now()
	if l.config.DisableRevocation || !(state.credentials.revocable(now) || state.group.credentials.revocable(now)) {
		return time.Time{}
	}
	until := l.caller.Tokens[l.caller.Audience].Expires
	if until.IsZero() {
		return time.Time{}
	}
	if t := state.group.token(now, nil); t != nil && t.Expires().After(until) {
		until = t.Expires()
	}
	due := twoThirds(now, until, l.config.Jitter())
	if least := now.Add(leastHorizon); due.Before(least) {
		return least
	}
	return due
}
