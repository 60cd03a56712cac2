package volume_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
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
		s.Set("c", began.Add(3*time.Second))
		s.Set("a", began.Add(time.Hour))
		s.Set("b", began.Add(2*time.Second))
		s.Set("gone", began.Add(time.Second))
		s.Set("a", began.Add(time.Second)) // brought forward
		s.Remove("gone")
		s.Remove("unknown")
		time.Sleep(10 * time.Second) // in the bubble's time
		synctest.Wait()
		mu.Lock()
		want := []string{"a@1s", "b@2s", "c@3s"}
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
			s.Set(fmt.Sprint(i), time.Now())
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
