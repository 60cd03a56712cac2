package session

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const (
	// youngToken is the least age of a token at which a refusal may be the token's fault,
	// so that a new login may help.
	youngToken = 5 * time.Second
	// expiryMargin is subtracted from a lifetime, for the time of a request.
	expiryMargin = 500 * time.Millisecond
)

// isAlive reports whether something that expires at a time, never if that is zero, is
// still valid for a request.
func isAlive(ends, now time.Time) bool {
	return ends.IsZero() || now.Before(ends.Add(-expiryMargin))
}

// Grant is what a store returns with a token.
type Grant struct {
	Value     string
	TTL       time.Duration // 0 means that it does not expire
	Renewable bool
	// Uses is the number of requests with the token; 0 means any number.
	Uses int
	// At is the address that gave the token, if the store has two; else zero.
	At endpoint.Address
}

// Token is the token of a login.
type Token struct {
	Login Login
	Value secret.String
	// At is Grant.At.
	At        endpoint.Address
	born      time.Time
	renewable bool
	// counted says that uses are limited; given is the number at first.
	counted bool
	given   int
	// leased says that something was issued with the token, and ends with it.
	leased atomic.Bool
	// foreign says that an address that did not give the token has refused it.
	foreign atomic.Bool

	mu      sync.Mutex
	ttl     time.Duration // granted last; 0 means for ever
	due     time.Time     // when to renew it; zero means never
	expires time.Time     // zero means never
	// final tokens are replaced when they are due, because they cannot be renewed.
	final bool
	// uses is the number of requests that are left, of a token with limited uses; see
	// Take.
	uses int
}

// NewToken returns the token of a login at now.
func NewToken(l Login, g Grant, now time.Time, chance float64) *Token {
	// A renewal needs a use, and a new login gives all of them again.
	t := &Token{Login: l, Value: secret.NewString(g.Value), At: g.At, born: now, renewable: g.Renewable && g.Uses <= 0}
	t.final = !t.renewable
	t.uses, t.given, t.counted = g.Uses, g.Uses, g.Uses > 0
	t.extend(now, g.TTL, chance)
	return t
}

// Limited reports whether the number of uses is limited, as by a Vault role with
// token_num_uses. Every request with the token counts, also those about itself.
func (t *Token) Limited() bool { return t.counted }

// Take takes one use of the token, if spare uses are left after it. Vault revokes a token
// after its last use, with everything that was issued with it.
func (t *Token) Take(spare int) bool {
	if !t.counted {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.uses <= spare {
		return false
	}
	t.uses--
	return true
}

// giveBack undoes Take after a request without an answer.
func (t *Token) giveBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.uses++
}

// unused reports whether a token with limited uses has all of them.
func (t *Token) unused() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counted && t.uses == t.given
}

// extend records a granted lifetime. If it is shorter than requested, the token cannot be
// extended any more.
func (t *Token) extend(now time.Time, ttl time.Duration, chance float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ttl <= 0 {
		t.ttl, t.due, t.expires = 0, time.Time{}, time.Time{}
		return
	}
	if t.ttl > 0 && fellShort(t.ttl, ttl) {
		t.final = true
	} else {
		t.ttl = ttl
	}
	t.expires = now.Add(ttl)
	t.due = twoThirds(now, t.expires, chance)
	if t.final && t.renewable {
		t.due = now
	}
}

func (t *Token) alive(now time.Time) bool { return isAlive(t.Expires(), now) }

// granted returns the lifetime that the store granted last; 0 means that the token does
// not expire.
func (t *Token) granted() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ttl
}

// young reports whether the token is too new for a refusal to be its fault. For a token
// with limited uses a refusal may be its fault at any age: a request may have cost more
// uses than were counted.
func (t *Token) young(now time.Time) bool {
	return !t.counted && !t.foreign.Load() && now.Sub(t.born) < youngToken
}

// RefusedBy records the address that refused the token. Another address than the one that
// gave it may not know it: the servers can be replicas, each with tokens of its own.
func (t *Token) RefusedBy(a endpoint.Address) {
	if !t.At.IsZero() && t.At != a {
		t.foreign.Store(true)
	}
}

// Expires returns when the token expires; zero means never.
func (t *Token) Expires() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.expires
}

func (t *Token) isDue(now time.Time) (due, final bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.due.IsZero() && isDue(t.due, t.expires, now), t.final
}

// giveUp lets the token expire without a renewal.
func (t *Token) giveUp() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.final = true
}

// dueTime returns when to renew or replace the token; zero means never.
func (t *Token) dueTime() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.due
}

// catchUp adopts the state of the same token if that was written after a later renewal:
// volumes that share a token write their states at different times.
func (t *Token) catchUp(o *Token) {
	if !o.outlives(t) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ttl, t.due, t.expires, t.final = o.ttl, o.due, o.expires, o.final
}

// outlives reports whether t expires later than o.
func (t *Token) outlives(o *Token) bool {
	a, b := t.Expires(), o.Expires()
	return !b.IsZero() && (a.IsZero() || a.After(b))
}

// mostIdle bounds the tokens that newer ones have replaced because the store refused
// requests with them, and that others may still be using. Without a bound, a read that is
// refused for days would leave one for each refresh.
const mostIdle = 8

// splitIdle takes the oldest tokens of a login off a list, oldest first, beyond the
// mostIdle newest. It leaves tokens with leases.
func splitIdle[T any](list []T, l Login, token func(T) *Token) (rest, idle []T) {
	n := 0
	for _, one := range slices.Backward(list) {
		t := token(one)
		if t != nil && t.Login == l && !t.leased.Load() {
			if n++; n > mostIdle {
				idle = append(idle, one)
				continue
			}
		}
		rest = append(rest, one)
	}
	slices.Reverse(rest)
	return rest, idle
}

// AskTwice sends a request with a token. If it is refused, the token may be the reason: it
// may be revoked, or older than a change of its policies. Then AskTwice sends the request
// once more with another token.
func AskTwice[R any](now func() time.Time, tokens Tokens, ask func(*Token) (R, error), refused func(error) bool) (r R, err error) {
	var stale *Token
	for {
		t, err := tokens(stale)
		if err != nil {
			return r, err
		}
		r, err = ask(t)
		if err == nil || stale != nil || !refused(err) || t.young(now()) {
			return r, err
		}
		stale = t
	}
}
