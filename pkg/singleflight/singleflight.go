// Package singleflight does work once for all callers that want the same at the same
// time. A failure that concerns only one caller, such as a denied login, is not shared.
package singleflight

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// Group has the current calls. The zero value is ready for use.
type Group[K comparable, V any] struct {
	mu    sync.Mutex
	calls map[K]*call[V]
}

type call[V any] struct {
	began time.Time
	done  chan struct{}
	value V
	err   error
	// canceled says that the leader's context ended.
	canceled bool
}

// errPanicked is the error of the other callers if fn panics.
var errPanicked = fault.New(fault.Internal, "the caller that asked for all gave up halfway")

// Own marks an error that concerns one caller only, such as a denied login: the next
// caller has other credentials.
func Own(err error) error {
	if err == nil {
		return nil
	}
	return own{err}
}

type own struct{ error }

func (o own) Unwrap() error { return o.error }

// IsOwn reports whether an error is marked with Own.
func IsOwn(err error) bool {
	var o own
	return errors.As(err, &o)
}

// Do runs fn, or waits for the caller that runs it already for the same key, the
// leader, and returns the leader's result. led says that fn ran for this caller. since
// is the earliest time at which fn may have begun; zero for any.
//
// All callers share the result, also an error. There are two exceptions. If the
// leader's context ends, the next caller leads. If the error is marked with Own, or has
// the reason NoToken, Exhausted or Internal, and is not an outage of the store, each
// other caller runs fn itself.
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

// DoDetached is Do for an fn that continues when its callers' contexts end; the next
// caller joins it. fn must limit its own time, and must not panic. ended is closed when
// fn has returned.
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

// join begins a call, or returns the current one.
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
