// Package singleflight has work done once for all callers that want the same at
// the same time, and tells them whose failure is whose.
package singleflight

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// Group holds the calls that are under way. The zero value is ready for use.
type Group[K comparable, V any] struct {
	mu    sync.Mutex
	calls map[K]*call[V]
}

type call[V any] struct {
	began time.Time
	done  chan struct{}
	value V
	err   error
	// canceled tells that the leader's own caller went.
	canceled bool
}

// errPanicked is what the others see where the leader panicked.
var errPanicked = fault.New(fault.Internal, "the caller that asked for all gave up halfway")

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
// same key. led tells that fn ran for this caller. A caller that needs an answer
// from after a certain moment names it as since: it joins no earlier call.
//
// An answer is everybody's, a refusal too. Where the leader's caller went, the
// next one leads. What is marked as the leader's Own, or has the reason NoToken,
// Exhausted or Internal, concerns nobody else: the others run fn for
// themselves, all at once. But an outage of the store is everybody's in any case.
func (g *Group[K, V]) Do(ctx context.Context, key K, now func() time.Time, since time.Time, fn func() (V, error)) (v V, led bool, err error) {
	for {
		mine, other := g.join(key, now)
		if other == nil {
			v, err = g.run(ctx, key, mine, fn)
			return v, true, err
		}
		select {
		case <-other.done:
		case <-ctx.Done():
			return v, false, fault.Ended(ctx)
		}
		switch {
		case other.canceled, !since.IsZero() && !other.began.After(since):
			continue
		case concernsLeader(other.err):
			v, err = fn()
			return v, true, err
		}
		return other.value, false, other.err
	}
}

// DoDetached is Do for what goes on to its end once it was begun: a caller that
// goes leaves it going, and the next joins it. fn must be bounded by itself, and
// must not panic. ended is closed when fn has returned.
func (g *Group[K, V]) DoDetached(ctx context.Context, key K, now func() time.Time, fn func() (V, error)) (v V, ended <-chan struct{}, err error) {
	for {
		mine, current := g.join(key, now)
		if mine != nil {
			current = mine
			go func() { _, _ = g.run(ctx, key, mine, fn) }()
		}
		select {
		case <-current.done:
		case <-ctx.Done():
			return v, current.done, fault.Ended(ctx)
		}
		if mine == nil && (current.canceled || concernsLeader(current.err)) {
			continue
		}
		return current.value, current.done, current.err
	}
}

func concernsLeader(err error) bool {
	reason := fault.Of(err)
	if err == nil || reason.Outage() {
		return false
	}
	return IsOwn(err) || reason == fault.NoToken || reason == fault.Exhausted || reason == fault.Internal
}

// join begins a call, or finds the one that is under way.
func (g *Group[K, V]) join(key K, now func() time.Time) (mine, other *call[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c, ok := g.calls[key]; ok {
		return nil, c
	}
	if g.calls == nil {
		g.calls = map[K]*call[V]{}
	}
	mine = &call[V]{began: now(), done: make(chan struct{}), err: errPanicked}
	g.calls[key] = mine
	return mine, nil
}

func (g *Group[K, V]) run(ctx context.Context, key K, mine *call[V], fn func() (V, error)) (V, error) {
	defer func() {
		g.mu.Lock()
		delete(g.calls, key)
		g.mu.Unlock()
		close(mine.done)
	}()
	mine.value, mine.err = fn()
	mine.canceled = mine.err != nil && ctx.Err() != nil
	return mine.value, mine.err
}
