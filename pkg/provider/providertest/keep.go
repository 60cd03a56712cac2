package providertest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// keeper is a provider that outlives a restart by what it exports.
type keeper interface {
	provider.Provider
	provider.Persister
}

// kept fetches for a new volume, and exports its state.
func (s *suite) kept(t *testing.T) (provider.Request, *provider.Payload, secret.Bytes) {
	t.Helper()
	k, ok := s.Provider.(keeper)
	if !ok {
		t.Skip("the provider keeps nothing")
	}
	if s.Restart == nil {
		t.Fatal("the provider is a Keeper, and the harness has no Restart")
	}
	r := s.Allowed(t, s.volume())
	r.Fresh = true
	p := s.fetch(t, r)
	r.Fresh = false
	state := k.Export(r.Volume)
	if state.Len() == 0 {
		t.Fatal("there is no state of a volume that was fetched")
	}
	return r, p, state
}

// restarted is the provider after a restart, which knows nothing of a volume.
func (s *suite) restarted(t *testing.T, volume string) keeper {
	t.Helper()
	k, ok := s.Restart(t).(keeper)
	if !ok {
		t.Fatal("the provider is no Keeper after a restart")
	}
	if state := k.Export(volume); state.Len() != 0 {
		t.Fatal("there is state of a volume that this process never saw")
	}
	return k
}

// keep imports a volume's state after a restart. The store changes meanwhile, which shows whether the
// provider read it again.
func (s *suite) keep(t *testing.T) {
	r, before, state := s.kept(t)
	next := s.restarted(t, r.Volume)
	s.Change(t)
	if err := next.Import(r.Volume, state); err != nil {
		t.Fatalf("Import of what Export gave: %v", err)
	}
	r.Current = before.Versions
	after := fetchFrom(t, next, r)
	if !slices.Equal(before.Versions, after.Versions) || !maps.Equal(contents(before), contents(after)) {
		t.Errorf("the payload differs after a restart: versions %v, then %v", before.Versions, after.Versions)
	}
	r.Fresh = true
	fresh := fetchFrom(t, next, r)
	if maps.Equal(contents(before), contents(fresh)) {
		t.Error("after a restart a change in the store does not show")
	}
	s.keepNewer(t, next, r, fresh, state)
}

// keepNewer imports an old state of a volume that is known.
func (s *suite) keepNewer(t *testing.T, k keeper, r provider.Request, now *provider.Payload, old secret.Bytes) {
	t.Helper()
	if err := k.Import(r.Volume, old); err != nil {
		t.Errorf("Import of the state of a volume that is known: %v", err)
	}
	r.Fresh, r.Current = false, now.Versions
	if p := fetchFrom(t, k, r); !maps.Equal(contents(now), contents(p)) {
		t.Error("Import of an old state undid what was fetched since")
	}
}

// anotherNode: tools restart workloads by the versions in the status, which
// each node writes for its pods. Providers of the same settings share nothing.
func (s *suite) anotherNode(t *testing.T) {
	if s.Restart == nil {
		t.Skip("the harness has no second provider")
	}
	here := s.fetch(t, s.Allowed(t, s.volume()))
	there := fetchFrom(t, s.Restart(t), s.Allowed(t, s.volume()))
	if !slices.Equal(here.Versions, there.Versions) {
		t.Errorf("versions %v here, %v on another node", here.Versions, there.Versions)
	}
}

// rubbish has a provider import states that it did not export. It must return an error, and serve the
// volume as a new one.
func (s *suite) rubbish(t *testing.T) {
	r, before, state := s.kept(t)
	for name, bad := range spoiled(state.Reveal()) {
		t.Run(name, func(t *testing.T) {
			next := s.restarted(t, r.Volume)
			err := next.Import(r.Volume, secret.NewBytes(bad))
			if err == nil {
				t.Error("Import took it")
			} else {
				s.wellTold(t, err)
			}
			if after := fetchFrom(t, next, r); !maps.Equal(contents(before), contents(after)) {
				t.Error("the contents differ afterwards")
			}
		})
	}
}

// spoiled is what a state can become on a disk, and what never was one. The
// random bytes are the same in each run.
func spoiled(state []byte) map[string][]byte {
	all := map[string][]byte{
		"empty JSON object": []byte("{}"), "empty JSON list": []byte("[]"), "JSON null": []byte("null"), "empty JSON text": []byte(`""`),
		"zeros": make([]byte, len(state)), "nothing": {}, "all but the last byte": state[:len(state)-1],
	}
	for _, eighths := range []int{1, 2, 3, 4, 5, 6, 7} {
		all[fmt.Sprintf("%d eighths", eighths)] = state[:len(state)*eighths/8]
	}
	source := rand.NewChaCha8([32]byte{'m', 'a', 'y', 'f', 'l', 'y'})
	for _, size := range []int{1, 64, len(state)} {
		random := make([]byte, size)
		_, _ = source.Read(random) // never fails
		all[fmt.Sprintf("%d random bytes", size)] = random
	}
	return all
}
