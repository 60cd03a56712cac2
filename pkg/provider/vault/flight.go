package vault

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// flights lets those who want the same at the same time have it done once. The
// first to come does it, with its own context and credentials.
type flights[K comparable, V any] struct {
	mu  sync.Mutex
	now map[K]*flight[V]
}

type flight[V any] struct {
	began time.Time
	done  chan struct{}
	value V
	err   error
}

// do runs fn, or waits for who is at it already. led tells that fn was run for
// this caller. One that needs an answer from after a certain moment gives it
// as since, and does not take part in what began before.
func (f *flights[K, V]) do(ctx context.Context, key K, now func() time.Time, since time.Time, fn func() (V, error)) (v V, led bool, err error) {
	for {
		running, mine := f.board(key, now)
		if mine {
			return f.lead(key, running, fn)
		}
		select {
		case <-running.done:
		case <-ctx.Done():
			return v, false, gaveUp(ctx)
		}
		if !since.IsZero() && !running.began.After(since) {
			continue
		}
		switch concern(running.err) {
		case everybody:
			return running.value, false, running.err
		case identityOnly:
			v, err = fn()
			return v, true, err
		}
	}
}

// board finds the flight that is under way, or begins one.
func (f *flights[K, V]) board(key K, now func() time.Time) (_ *flight[V], mine bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if running, ok := f.now[key]; ok {
		return running, false
	}
	if f.now == nil {
		f.now = map[K]*flight[V]{}
	}
	f.now[key] = &flight[V]{began: now(), done: make(chan struct{}), err: errAbandoned}
	return f.now[key], true
}

func (f *flights[K, V]) lead(key K, mine *flight[V], fn func() (V, error)) (V, bool, error) {
	defer func() {
		f.mu.Lock()
		delete(f.now, key)
		f.mu.Unlock()
		close(mine.done)
	}()
	mine.value, mine.err = fn()
	return mine.value, true, mine.err
}

// errAbandoned is what the others see where the leader panicked.
var errAbandoned = fault.New(fault.Internal, "the request was abandoned")

// concerned says whom the end of a flight concerns.
type concerned int

const (
	everybody    concerned = iota // the store would answer the others alike
	leaderOnly                    // its caller went: the next one leads
	identityOnly                  // its own credentials: the others use theirs
)

// loginError is a failed login. It is the pod's own, unless the store was not
// well: the next pod has another service account token.
type loginError struct{ error }

func (e loginError) Unwrap() error { return e.error }

func concern(err error) concerned {
	var l loginError
	reason := fault.Of(err)
	switch {
	case err == nil:
		return everybody
	case reason == fault.Canceled, errors.Is(err, context.DeadlineExceeded):
		return leaderOnly
	case reason.Outage():
		return everybody
	case errors.As(err, &l), reason == fault.NoToken, reason == fault.Internal:
		return identityOnly
	}
	return everybody
}
