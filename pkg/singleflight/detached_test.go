package singleflight_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

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
		if fault.Of(err) != fault.Timeout {
			t.Errorf("got %v", err)
		}
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
