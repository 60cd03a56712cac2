package volume_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/volume"
)

func newDirStore(t *testing.T, dir string, log *bytes.Buffer) *volume.DirStore {
	t.Helper()
	s, err := volume.NewDirStore(dir, slog.New(slog.NewTextHandler(log, nil)))
	must(t, err)
	return s
}

// A lane that is behind is not one that stands still.
func TestSchedulerStalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := volume.NewScheduler()
		ctx, cancel := context.WithCancel(t.Context())
		done, gate := make(chan error), make(chan struct{})
		go func() {
			done <- s.Run(ctx, 1, func(context.Context, string) { <-gate })
		}()
		for i := range 5 {
			s.Set(fmt.Sprint(i), "vault", time.Now())
		}
		s.Set("later", "akeyless", time.Now().Add(24*time.Hour))
		for range 3 { // each takes its time, and the rest are ever later
			time.Sleep(9 * time.Minute)
			if got := s.Stalled(time.Now()); got != 9*time.Minute {
				t.Errorf("stands still for %s, want 9m", got)
			}
			gate <- struct{}{}
			synctest.Wait()
			if got := s.Stalled(time.Now()); got != 0 {
				t.Errorf("stands still for %s after one has ended", got)
			}
		}
		time.Sleep(time.Hour)
		if got := s.Stalled(time.Now()); got != time.Hour {
			t.Errorf("stands still for %s, want 1h", got)
		}
		close(gate)
		synctest.Wait()
		if got := s.Stalled(time.Now()); got > 0 {
			t.Errorf("stands still for %s with nothing due", got)
		}
		cancel()
		must(t, <-done)
	})
}

func TestSchedulerOrderAndReplacement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := volume.NewScheduler()
		began := time.Now()
		var mu sync.Mutex
		var got []string
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- s.Run(ctx, 1, func(_ context.Context, id string) {
				mu.Lock()
				defer mu.Unlock()
				got = append(got, fmt.Sprintf("%s@%s", id, time.Since(began)))
			})
		}()
		s.Set("c", "vault", began.Add(3*time.Second))
		s.Set("a", "vault", began.Add(time.Hour))
		s.Set("b", "vault", began.Add(2*time.Second))
		s.Set("gone", "vault", began.Add(time.Second))
		s.Set("a", "vault", began.Add(time.Second))      // brought forward
		s.Hasten("b", "vault", began.Add(8*time.Second)) // which is no sooner
		s.Hasten("d", "vault", began.Add(time.Hour))
		s.Hasten("d", "vault", began.Add(4*time.Second))
		s.Remove("gone")
		s.Remove("unknown")
		time.Sleep(10 * time.Second) // in the bubble's time
		synctest.Wait()
		mu.Lock()
		want := []string{"a@1s", "b@2s", "c@3s", "d@4s"}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		mu.Unlock()
		cancel()
		must(t, <-done)
	})
}

func TestSchedulerBoundsItsWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := volume.NewScheduler()
		var mu sync.Mutex
		running, most, ran := 0, 0, 0
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		for i := range 50 {
			s.Set(fmt.Sprint(i), "vault", time.Now())
		}
		go func() {
			done <- s.Run(ctx, 4, func(context.Context, string) {
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				time.Sleep(time.Second) // a slow store, in the bubble's time
				mu.Lock()
				running--
				ran++
				mu.Unlock()
			})
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		mu.Lock()
		if most != 4 || ran != 50 {
			t.Errorf("%d at once and %d in all, want 4 and 50", most, ran)
		}
		mu.Unlock()
		cancel()
		must(t, <-done)
	})
}

// A store that hangs must not hold up the volumes of another.
func TestSchedulerKeepsProvidersApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := volume.NewScheduler()
		began := time.Now()
		var mu sync.Mutex
		hanging := 0
		var got []string
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		for i := range 20 {
			s.Set(fmt.Sprint("hangs", i), "plugin", began)
		}
		s.Set("moved", "plugin", began) // its class has been edited
		s.Set("moved", "vault", began.Add(2*time.Second))
		s.Set("a", "vault", began.Add(time.Second))
		go func() {
			done <- s.Run(ctx, 2, func(ctx context.Context, id string) {
				mu.Lock()
				if strings.HasPrefix(id, "hangs") {
					hanging++
					mu.Unlock()
					<-ctx.Done()
					return
				}
				got = append(got, fmt.Sprintf("%s@%s", id, time.Since(began)))
				mu.Unlock()
			})
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		mu.Lock()
		if want := []string{"a@1s", "moved@2s"}; !slices.Equal(got, want) || hanging != 2 {
			t.Errorf("got %v, want %v; %d at once of the store that hangs, want 2", got, want, hanging)
		}
		mu.Unlock()
		cancel()
		must(t, <-done)
		if hanging != 2 {
			t.Errorf("%d begun after the stop", hanging-2)
		}
	})
}
