package session

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// Flights lets callers that want the same thing at the same time have it done
// once, by the first of them. The zero value is ready for use.
type Flights[K comparable, V any] struct {
	mu       sync.Mutex
	airborne map[K]*flight[V]
}

type flight[V any] struct {
	began  time.Time
	landed chan struct{}
	value  V
	err    error
	// quit tells that the leader's own caller went.
	quit bool
}

// errLeaderGone is what passengers see where the leader panicked.
var errLeaderGone = fault.New(fault.Internal, "the one who asked for all gave up halfway")

// Own marks a failure as that of the caller who met it, such as a login that
// the store denied: the next caller has other credentials.
func Own(err error) error {
	if err == nil {
		return nil
	}
	return own{err}
}

type own struct{ error }

func (o own) Unwrap() error { return o.error }

// IsOwn tells whether a failure was marked so.
func IsOwn(err error) bool {
	var o own
	return errors.As(err, &o)
}

// Do runs fn, or takes the result of the caller that runs it already for the
// same key. led tells that fn ran for this caller. Whoever needs an answer from
// after a certain moment names it as since: earlier flights are not joined.
//
// An answer is everybody's, a refusal too. Where the leader's caller went, the
// next one leads. What is marked as the leader's Own, or has the reason NoToken,
// Exhausted or Internal, concerns nobody else: the passengers run fn for
// themselves, all at once. But an outage of the store is everybody's in any case.
func (f *Flights[K, V]) Do(ctx context.Context, key K, now func() time.Time, since time.Time, fn func() (V, error)) (v V, led bool, err error) {
	for {
		mine, other := f.board(key, now)
		if other == nil {
			v, err = f.fly(ctx, key, mine, fn)
			return v, true, err
		}
		select {
		case <-other.landed:
		case <-ctx.Done():
			return v, false, Ended(ctx)
		}
		switch {
		case other.quit, !since.IsZero() && !other.began.After(since):
			continue
		case concernsLeader(other.err):
			v, err = fn()
			return v, true, err
		}
		return other.value, false, other.err
	}
}

// DoApart is Do for what goes on to its end once it was begun: a caller that goes
// leaves it going, and the next joins it. fn must be bounded by itself, and must
// not panic. ended is closed when fn has returned.
func (f *Flights[K, V]) DoApart(ctx context.Context, key K, now func() time.Time, fn func() (V, error)) (v V, ended <-chan struct{}, err error) {
	for {
		mine, under := f.board(key, now)
		if mine != nil {
			under = mine
			go func() { _, _ = f.fly(ctx, key, mine, fn) }()
		}
		select {
		case <-under.landed:
		case <-ctx.Done():
			return v, under.landed, Ended(ctx)
		}
		if mine == nil && (under.quit || concernsLeader(under.err)) {
			continue
		}
		return under.value, under.landed, under.err
	}
}

func concernsLeader(err error) bool {
	reason := fault.Of(err)
	if err == nil || reason.Outage() {
		return false
	}
	return IsOwn(err) || reason == fault.NoToken || reason == fault.Exhausted || reason == fault.Internal
}

// board opens a flight, or finds the one that is under way.
func (f *Flights[K, V]) board(key K, now func() time.Time) (mine, other *flight[V]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if under, ok := f.airborne[key]; ok {
		return nil, under
	}
	if f.airborne == nil {
		f.airborne = map[K]*flight[V]{}
	}
	mine = &flight[V]{began: now(), landed: make(chan struct{}), err: errLeaderGone}
	f.airborne[key] = mine
	return mine, nil
}

func (f *Flights[K, V]) fly(ctx context.Context, key K, mine *flight[V], fn func() (V, error)) (V, error) {
	defer func() {
		f.mu.Lock()
		delete(f.airborne, key)
		f.mu.Unlock()
		close(mine.landed)
	}()
	mine.value, mine.err = fn()
	mine.quit = mine.err != nil && ctx.Err() != nil
	return mine.value, mine.err
}
