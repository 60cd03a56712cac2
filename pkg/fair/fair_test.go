package fair_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fair"
)

// TestPlaces has parties come for places in order, each second one, and hold
// them for a while.
func TestPlaces(t *testing.T) {
	for name, tc := range map[string]struct {
		most, each int
		come       []string
		hold       time.Duration
		want       []string // party@when it got its place
	}{
		"there is room": {3, 2, []string{"a", "b", "a"}, time.Minute, []string{"a@0s", "b@1s", "a@2s"}},
		"the first of each never waits": {2, 2, []string{"a", "a", "a", "b", "c"}, time.Minute,
			[]string{"a@0s", "a@1s", "b@3s", "c@4s", "a@1m1s"}},
		"no party gets all":          {4, 2, []string{"a", "a", "a", "b"}, time.Minute, []string{"a@0s", "a@1s", "b@3s", "a@1m0s"}},
		"the fewest come first":      {2, 2, []string{"a", "b", "a", "a", "b"}, time.Minute, []string{"a@0s", "b@1s", "a@1m0s", "b@1m1s", "a@2m0s"}},
		"one party in its own order": {1, 1, []string{"a", "a"}, time.Minute, []string{"a@0s", "a@1m0s"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, began := fair.New(tc.most, tc.each), time.Now()
				var mu sync.Mutex
				var got []string
				for i, party := range tc.come {
					go func() {
						time.Sleep(time.Duration(i) * time.Second)
						if err := p.Take(t.Context(), party); err != nil {
							t.Error(err)
						}
						mu.Lock()
						got = append(got, fmt.Sprintf("%s@%s", party, time.Since(began)))
						mu.Unlock()
						time.Sleep(tc.hold)
						p.Give(party)
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

// Who gives up waiting leaves nothing behind.
func TestPlacesGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := fair.New(1, 1)
		if err := p.Take(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Take(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		p.Give("a")
		for range 3 {
			if err := p.Take(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			p.Give("a")
		}
	})
}
