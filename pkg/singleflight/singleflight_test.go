package singleflight_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func fixed() time.Time { return time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC) }

// TestConcerns has four callers want the same while the first's work
// ends in different ways.
func TestConcerns(t *testing.T) {
	denied := fault.New(fault.Denied, "denied")
	for name, c := range map[string]struct {
		first error
		quit  bool // the first's caller goes
		runs  int
		fails int // of the other three
	}{
		"success":          {nil, false, 1, 0},
		"outage":           {fault.New(fault.Unavailable, "away"), false, 1, 3},
		"refused":          {denied, false, 1, 3},
		"own":              {singleflight.Own(denied), false, 4, 0},
		"a defect":         {errors.New("defect"), false, 4, 0},
		"own, but outage":  {singleflight.Own(fault.New(fault.Timeout, "slow")), false, 1, 3},
		"no token":         {fault.New(fault.NoToken, "none"), false, 4, 0},
		"the caller went":  {fault.New(fault.Timeout, "late"), true, 2, 0},
		"went and succeed": {nil, true, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var f singleflight.Group[string, int]
				gate := make(chan struct{})
				runs, fails := make(chan int, 10), make(chan error, 10)
				leader, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() {
					_, _, _ = f.Do(leader, "k", fixed, time.Time{}, func() (int, error) {
						runs <- 1
						<-gate
						if c.quit {
							cancel()
						}
						return 7, c.first
					})
				}()
				synctest.Wait()
				for range 3 {
					go func() {
						v, _, err := f.Do(t.Context(), "k", fixed, time.Time{}, func() (int, error) {
							runs <- 1
							time.Sleep(time.Second) // so that the others can join
							return 7, nil
						})
						if err == nil && v != 7 {
							err = errors.New("another value")
						}
						fails <- err
					}()
				}
				synctest.Wait()
				close(gate)
				failed := 0
				for range 3 {
					if <-fails != nil {
						failed++
					}
				}
				if len(runs) != c.runs || failed != c.fails {
					t.Errorf("%d runs and %d failures, want %d and %d", len(runs), failed, c.runs, c.fails)
				}
			})
		})
	}
}

func TestSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f singleflight.Group[int, string]
		gate := make(chan struct{})
		go func() {
			_, _, _ = f.Do(t.Context(), 1, time.Now, time.Time{}, func() (string, error) { <-gate; return "old", nil })
		}()
		synctest.Wait()
		time.Sleep(time.Second)
		asked := time.Now()
		got := make(chan string, 1)
		go func() {
			time.Sleep(time.Second)
			v, led, _ := f.Do(t.Context(), 1, time.Now, asked, func() (string, error) { return "new", nil })
			if !led {
				t.Error("an answer from before was good enough")
			}
			got <- v
		}()
		time.Sleep(2 * time.Second)
		close(gate)
		testkit.Equal(t, "the result", <-got, "new")
	})
}

func TestFollowerLeavesAndLeaderPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f singleflight.Group[int, int]
		gate := make(chan struct{})
		go func() {
			defer func() { _ = recover() }()
			_, _, _ = f.Do(t.Context(), 1, fixed, time.Time{}, func() (int, error) { <-gate; panic("defect") })
		}()
		synctest.Wait()
		gone, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("enough"))
		if _, _, err := f.Do(gone, 1, fixed, time.Time{}, nil); fault.Of(err) != fault.Canceled {
			t.Errorf("a follower that left: %v", err)
		}
		close(gate)
		if v, _, err := f.Do(t.Context(), 1, fixed, time.Time{}, func() (int, error) { return 5, nil }); v != 5 || err != nil {
			t.Errorf("after a panic: %v, %v", v, err)
		}
	})
}

// A caller that goes leaves the work going, and the next one gets what it made.
func TestDoDetachedOutlivesItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f singleflight.Group[string, int]
		made := 0
		produce := func() (int, error) {
			time.Sleep(time.Minute)
			made++
			return made, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, ended, err := f.DoDetached(ctx, "k", time.Now, produce)
		testkit.Fails(t, err, fault.Timeout)
		select {
		case <-ended:
			t.Error("it has ended")
		default:
		}
		if n, _, err := f.DoDetached(t.Context(), "k", time.Now, produce); n != 1 || err != nil {
			t.Errorf("got %d and %v, want what the first caller began", n, err)
		}
		<-ended
	})
}

// What ended with its caller is nothing for the next one.
func TestDoDetachedBeginsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f singleflight.Group[string, int]
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			_, _, _ = f.DoDetached(ctx, "k", time.Now, func() (int, error) {
				<-ctx.Done()
				time.Sleep(time.Second)
				return 0, ctx.Err()
			})
		}()
		synctest.Wait()
		cancel()
		if n, _, err := f.DoDetached(t.Context(), "k", time.Now, func() (int, error) { return 7, nil }); n != 7 || err != nil {
			t.Errorf("got %d and %v", n, err)
		}
	})
}
