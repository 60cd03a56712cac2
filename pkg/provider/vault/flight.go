package vault

import (
	"context"
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
//
// What failed for a reason of the leader's own, such as its context or its
// credentials, is not the others' failure: they try themselves.
func (f *flights[K, V]) do(ctx context.Context, key K, now func() time.Time, since time.Time, fn func() (V, error)) (v V, led bool, err error) {
	for {
		f.mu.Lock()
		running, ok := f.now[key]
		if !ok {
			break
		}
		f.mu.Unlock()
		select {
		case <-running.done:
		case <-ctx.Done():
			return v, false, gaveUp(ctx)
		}
		switch stale := !since.IsZero() && !running.began.After(since); {
		case stale:
		case running.err == nil:
			return running.value, false, nil
		case fault.Of(running.err).Outage() && fault.Of(running.err) != fault.Timeout:
			return v, false, running.err
		default:
			v, err = fn()
			return v, true, err
		}
	}
	mine := &flight[V]{began: now(), done: make(chan struct{})}
	if f.now == nil {
		f.now = map[K]*flight[V]{}
	}
	f.now[key] = mine
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.now, key)
		f.mu.Unlock()
		close(mine.done)
	}()
	mine.err = errAbandoned
	mine.value, mine.err = fn()
	return mine.value, true, mine.err
}

// errAbandoned is what the others see where the leader panicked.
var errAbandoned = fault.New(fault.Internal, "the request was abandoned")
