package fair_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fair"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestAcquire calls Acquire once a second, and releases each slot after hold.
func TestAcquire(t *testing.T) {
	for name, tc := range map[string]struct {
		total, perKey int
		calls         []string
		hold          time.Duration
		want          []string // key@when it got its slot
	}{
		"enough slots": {3, 2, []string{"a", "b", "a"}, time.Minute, []string{"a@0s", "b@1s", "a@2s"}},
		"the first of each never waits": {2, 2, []string{"a", "a", "a", "b", "c"}, time.Minute,
			[]string{"a@0s", "a@1s", "b@3s", "c@4s", "a@1m1s"}},
		"one key does not get all":          {4, 2, []string{"a", "a", "a", "b"}, time.Minute, []string{"a@0s", "a@1s", "b@3s", "a@1m0s"}},
		"the fewest come first":             {2, 2, []string{"a", "b", "a", "a", "b"}, time.Minute, []string{"a@0s", "b@1s", "a@1m0s", "b@1m1s", "a@2m0s"}},
		"one key in the order of its calls": {1, 1, []string{"a", "a"}, time.Minute, []string{"a@0s", "a@1m0s"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, began := fair.New(tc.total, tc.perKey), time.Now()
				var mu sync.Mutex
				var got []string
				for i, key := range tc.calls {
					go func() {
						time.Sleep(time.Duration(i) * time.Second)
						testkit.Check(t, s.Acquire(t.Context(), key))
						mu.Lock()
						got = append(got, fmt.Sprintf("%s@%s", key, time.Since(began)))
						mu.Unlock()
						time.Sleep(tc.hold)
						s.Release(key)
					}()
				}
				time.Sleep(time.Hour)
				if mu.Lock(); !slices.Equal(got, tc.want) {
					t.Errorf("got %v, want %v", got, tc.want)
				}
				mu.Unlock()
			})
		})
	}
}

// A caller whose context ends keeps no slot.
func TestAcquireCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := fair.New(1, 1)
		testkit.Must(t, s.Acquire(t.Context(), "a"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		testkit.Is(t, s.Acquire(ctx, "a"), context.DeadlineExceeded)
		s.Release("a")
		for range 3 {
			testkit.Must(t, s.Acquire(t.Context(), "a"))
			s.Release("a")
		}
	})
}
