// Package fair bounds concurrency, and divides it fairly between tenants or plugins.
package fair

import (
	"context"
	"slices"
	"sync"
)

// Semaphore bounds how many acquisitions there are at once, in total and for each key. A key names a
// tenant or a plugin. The first acquisition of a key never waits for another key. A free slot goes to the
// waiting key with the fewest slots, and among equals in the order of the calls.
type Semaphore struct {
	total, perKey int

	mu      sync.Mutex
	used    int
	byKey   map[string]int
	waiting []*waiter
}

type waiter struct {
	key   string
	ready chan struct{} // closed once it has a slot
}

// New makes a Semaphore with total slots, of which one key gets at most perKey. If other keys have all of
// them, each key without a slot gets one more.
func New(total, perKey int) *Semaphore {
	return &Semaphore{total: total, perKey: perKey, byKey: map[string]int{}}
}

// PerKey is how many slots one key gets at most.
func (s *Semaphore) PerKey() int { return s.perKey }

// Acquire waits for a slot, which the caller must Release, or returns the error of ctx.
func (s *Semaphore) Acquire(ctx context.Context, key string) error {
	s.mu.Lock()
	if s.free(key) {
		s.grant(key)
		s.mu.Unlock()
		return nil
	}
	w := &waiter{key, make(chan struct{})}
	s.waiting = append(s.waiting, w)
	s.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, w); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	} else {
		s.release(key) // granted after the context ended
	}
	return ctx.Err()
}

// Release frees a slot.
func (s *Semaphore) Release(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(key)
}

func (s *Semaphore) free(key string) bool {
	return s.byKey[key] == 0 || s.used < s.total && s.byKey[key] < s.perKey
}

func (s *Semaphore) grant(key string) {
	s.used++
	s.byKey[key]++
}

func (s *Semaphore) release(key string) {
	s.used--
	if s.byKey[key]--; s.byKey[key] == 0 {
		delete(s.byKey, key)
	}
	for {
		next := -1
		for i, w := range s.waiting {
			if s.free(w.key) && (next < 0 || s.byKey[w.key] < s.byKey[s.waiting[next].key]) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		w := s.waiting[next]
		s.waiting = slices.Delete(s.waiting, next, next+1)
		s.grant(w.key)
		close(w.ready)
	}
}
