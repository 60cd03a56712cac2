package session

import (
	"sync"
	"time"
)

const (
	// youngToken is how old a token must be for a refusal to be put down to
	// it, and a new login to be tried.
	youngToken = 5 * time.Second
	// expiryMargin is taken off a lifetime for the way to the store.
	expiryMargin = 500 * time.Millisecond
)

// Alive tells whether what ends at a moment, or never if that is zero, is
// still good for a request.
func Alive(ends, now time.Time) bool {
	return ends.IsZero() || now.Before(ends.Add(-expiryMargin))
}

// Token is what a login gave.
type Token interface {
	comparable
	Born() time.Time
	// Ends is when it stops to work; zero means never.
	Ends() time.Time
}

// Login is the token that an identity asks with. The zero value has none.
type Login[T Token] struct {
	mu    sync.Mutex
	token T
}

// Current is the token; none, the zero value, where it is over or stale.
func (l *Login[T]) Current(now time.Time, stale T) (none T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == none || l.token == stale || !Alive(l.token.Ends(), now) {
		return none
	}
	return l.token
}

// Adopt makes t the token, and returns the one whose place it takes.
func (l *Login[T]) Adopt(t T) (old T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old, l.token = l.token, t
	return old
}

// Claim takes the token away if it is t.
func (l *Login[T]) Claim(t T) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	var none T
	if t == none || l.token != t {
		return false
	}
	l.token = none
	return true
}

// Restore takes the token that lives longest of those that the volumes of an
// identity kept.
func (l *Login[T]) Restore(t T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var none T
	if l.token == none || outlives(t.Ends(), l.token.Ends()) {
		l.token = t
	}
}

func outlives(a, b time.Time) bool { return !b.IsZero() && (a.IsZero() || a.After(b)) }

// AskTwice asks with a token. A refusal may be the token's, which can have
// been revoked, or be older than a change of what it may do: then it asks once
// more, with another token than the stale one.
func AskTwice[T Token, R any](now func() time.Time, token func(stale T) (T, error), ask func(T) (R, error), refused func(error) bool) (r R, err error) {
	var none, stale T
	for {
		t, err := token(stale)
		if err != nil {
			return r, err
		}
		r, err = ask(t)
		if err == nil || stale != none || !refused(err) || now().Sub(t.Born()) < youngToken {
			return r, err
		}
		stale = t
	}
}
