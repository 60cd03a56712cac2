package providertest

import (
	"context"
	"errors"
	"maps"
	"testing"
	"time"

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

// keep takes a volume through Export and Import, also with rubbish.
func (s *suite) keep(t *testing.T) {
	k, ok := s.Provider.(provider.Keeper)
	if !ok {
		t.Skip("the provider keeps nothing")
	}
	if state := k.Export("csi-never-seen"); state.Len() != 0 {
		t.Error("there is state of a volume that was never seen")
	}
	r := s.Allowed(t, s.volume())
	a := s.fetch(t, r)
	state := k.Export(r.Volume)
	s.releaseOf(t, s.volume())
	if state.Len() > 0 {
		if err := k.Import(r.Volume, state); err != nil {
			t.Errorf("Import of what Export gave: %v", err)
		}
	}
	if b := s.fetch(t, r); !maps.Equal(contents(a), contents(b)) {
		t.Error("the contents differ after Import")
	}
}

// hanging is last: the store is of no use afterwards.
func (s *suite) hanging(t *testing.T) {
	if s.Hang == nil {
		t.Skip("the harness has no store that hangs")
	}
	r := s.Allowed(t, s.volume())
	s.Hang(t)
	r.Fresh = true
	ctx, cancel := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.Provider.Fetch(ctx, r)
		done <- err
	}()
	cancel(errors.New("the caller is gone"))
	select {
	case err := <-done:
		if err == nil {
			t.Error("Fetch gave a payload, though the store hangs")
		}
	case <-time.After(promptly):
		t.Fatal("Fetch goes on after its context was canceled")
	}
}
