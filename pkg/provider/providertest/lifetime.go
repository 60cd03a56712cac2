package providertest

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

func (s *suite) releaseOf(t *testing.T, volume string) {
	if rel, ok := s.Provider.(provider.Releaser); ok {
		if err := rel.Release(t.Context(), volume); err != nil {
			t.Errorf("Release of %s: %v", volume, err)
		}
	}
}

func (s *suite) release(t *testing.T) {
	if _, ok := s.Provider.(provider.Releaser); !ok {
		t.Skip("the provider holds nothing")
	}
	s.releaseOf(t, "csi-never-seen")
	r, other := s.Allowed(t, s.volume()), s.Allowed(t, s.volume())
	a := s.fetch(t, r)
	s.fetch(t, other)
	for range 2 {
		s.releaseOf(t, r.Volume)
	}
	other.Fresh = true
	s.fetch(t, other) // lives on
	if b := s.fetch(t, r); !maps.Equal(contents(a), contents(b)) {
		t.Error("a volume that comes back gets other contents")
	}
}

// hanging is last: the store is of no use afterwards.
func (s *suite) hanging(t *testing.T) {
	if s.Hang == nil {
		t.Skip("the harness has no store that hangs")
	}
	r := s.Allowed(t, s.volume())
	r.Fresh = true
	held := s.Hang(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	done := make(chan error, 1)
	go func() {
		_, err := s.Provider.Fetch(ctx, r)
		done <- err
	}()
	// Canceled any earlier, Fetch would not have begun to wait for the store.
	select {
	case <-held:
	case err := <-done:
		t.Fatalf("Fetch ended before the store had a request: %v", err)
	case <-time.After(promptly):
		t.Fatal("the store got no request")
	}
	cancel(errors.New("the caller is gone"))
	select {
	case err := <-done:
		if got := fault.Of(err); err == nil || got != fault.Canceled {
			t.Errorf("the reason is %s, want %s: %v", got, fault.Canceled, err)
		}
	case <-time.After(promptly):
		t.Fatal("Fetch goes on after its context was canceled")
	}
}
