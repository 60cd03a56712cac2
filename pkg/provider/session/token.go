package session

import (
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const (
	// youngToken is how old a token must be for a refusal to be put down to
	// it, and a new login to be tried.
	youngToken = 5 * time.Second
	// expiryMargin is taken off a lifetime for the way to the store.
	expiryMargin = 500 * time.Millisecond
)

// isAlive tells whether what ends at a moment, or never if that is zero, is
// still good for a request.
func isAlive(ends, now time.Time) bool {
	return ends.IsZero() || now.Before(ends.Add(-expiryMargin))
}

// Grant is what a store says of a token that it gave.
type Grant struct {
	Value     string
	TTL       time.Duration // 0 means for ever
	Renewable bool
	// Uses is how many requests the token is good for; 0 means any number.
	Uses int
	// At is the address that gave it, of a store with two; else zero.
	At endpoint.Address
}

// Token is what a login gave.
type Token struct {
	Login Login
	Value secret.String
	// At is Grant.At.
	At        endpoint.Address
	born      time.Time
	renewable bool

	mu      sync.Mutex
	ttl     time.Duration // granted last; 0 means for ever
	due     time.Time     // when to renew it; zero means never
	expires time.Time     // zero means never
	// final tokens are replaced when they are due: renewing does not help.
	final bool
	// uses are how many requests are left to a token that was given for a
	// number of them; see Take.
	uses int
	// counted tells that it was, and given how many it had at first.
	counted bool
	given   int
	// foreign tells that an address refused it which did not give it.
	foreign bool
}

// NewToken notes a token that a login gave at now.
func NewToken(l Login, g Grant, now time.Time, chance float64) *Token {
	// A renewal would spend a use, and a new login gives all of them.
	t := &Token{Login: l, Value: secret.NewString(g.Value), At: g.At, born: now, renewable: g.Renewable && g.Uses <= 0}
	t.final = !t.renewable
	t.uses, t.given, t.counted = g.Uses, g.Uses, g.Uses > 0
	t.extend(now, g.TTL, chance)
	return t
}

// Limited tells whether the token was given for a number of requests, as a
// Vault role with token_num_uses does. Every request with it counts, those for
// itself too.
func (t *Token) Limited() bool { return t.counted }

// Take spends one use of the token, if there is one and spare are left then.
// Vault ends a token with its last use, and all that hangs on it.
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

// giveBack undoes Take for a request that was not answered.
func (t *Token) giveBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.uses++
}

// unused tells that no use of a counted token was spent yet.
func (t *Token) unused() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counted && t.uses == t.given
}

// extend notes a granted lifetime. One that falls short of the last tells
// that the token cannot be extended any more.
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

// granted is the lifetime that the store gave last; 0 means for ever.
func (t *Token) granted() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ttl
}

// young tells whether the token is too new for a refusal to be put down to it.
// A refusal of one with a number of uses is put down to it at any age: what was
// asked may have cost more than was counted.
func (t *Token) young(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.counted && !t.foreign && now.Sub(t.born) < youngToken
}

// RefusedBy notes the address that refused the token. One that did not give it
// may not know it: the servers at a store's two addresses can be replicas, each
// with tokens of its own.
func (t *Token) RefusedBy(a endpoint.Address) {
	if t.At.IsZero() || t.At == a {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.foreign = true
}

// Expires is when the token stops to work; zero means never.
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

// giveUp has the token live out its time, and no longer.
func (t *Token) giveUp() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.final = true
}

// dueTime is when to renew or replace the token; zero means never.
func (t *Token) dueTime() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.due
}

// catchUp takes the state of the same token that was written after its last
// renewal: volumes that share a token do not all write at that time.
func (t *Token) catchUp(o *Token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if later := o.expires.IsZero() || o.expires.After(t.expires); later && !t.expires.IsZero() {
		t.ttl, t.due, t.expires, t.final = o.ttl, o.due, o.expires, o.final
	}
}

// current is the token that an identity asks with. The zero value has none.
type current struct {
	mu    sync.Mutex
	token *Token
}

// get is the token; nil where it has expired or is stale.
func (c *current) get(now time.Time, stale *Token) *Token {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == nil || c.token == stale || !c.token.alive(now) {
		return nil
	}
	return c.token
}

// replace makes t the token, and returns the earlier one.
func (c *current) replace(t *Token) (old *Token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, c.token = c.token, t
	return old
}

// claim takes the token away if it is t.
func (c *current) claim(t *Token) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t == nil || c.token != t {
		return false
	}
	c.token = nil
	return true
}

// restore takes the token that lives longest of those that the volumes of an
// identity exported.
func (c *current) restore(t *Token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token == nil || outlives(t.Expires(), c.token.Expires()) {
		c.token = t
	}
}

func outlives(a, b time.Time) bool { return !b.IsZero() && (a.IsZero() || a.After(b)) }

// AskTwice asks with a token. A refusal may be the token's, which can have
// been revoked, or be older than a change of what it may do: then it asks once
// more, with another token than the stale one.
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
