// Package providertest tests the promises of package provider. Every provider must pass it.
package providertest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// promptly bounds what must not wait for the store. It is generous, because
// machines that run tests are slow.
const promptly = 10 * time.Second

// Harness is a provider and a store to try it on. The functions that make
// requests give each volume a pod of its own. The provider's own timeouts must
// be half a minute or more: one that waits for a store that hangs shall be
// found waiting.
type Harness struct {
	Provider provider.Provider
	// Restart makes a provider as the driver has it after a restart: one of
	// the same settings, that knows of no volume. A provider.Persister must have
	// it; others need none.
	Restart func(t *testing.T) provider.Provider
	// Allowed asks for two objects or more that the pod may read.
	Allowed func(t *testing.T, volume string) provider.Request
	// Denied asks for the same as a pod that the store refuses.
	Denied func(t *testing.T, volume string) provider.Request
	// Hearsay is set if another process asks the store, so that its denial is Unverified.
	Hearsay bool
	// Partial asks for an object that the pod may read and for one that does
	// not exist.
	Partial func(t *testing.T, volume string) provider.Request
	// Credentials is for a store that makes some; nil for one that makes none.
	Credentials *Credentials
	// Refused is for a provider that reads each object by itself; nil for one that
	// passes on what another process reads.
	Refused *Refused
	// Change changes, in the store, an object that Allowed asks for.
	Change func(t *testing.T)
	// Hang makes the store take requests and answer none, until the test ends.
	// The channel tells, by a value or its end, that the store has a request
	// which it does not answer. Hang is called last; nil skips what needs it.
	Hang func(t *testing.T) (held <-chan struct{})
	// Secrets are texts that must not show in any error: tokens, and values
	// that the store holds.
	Secrets func() []string
}

// Run tries all promises. It is called from one test of the provider's.
func Run(t *testing.T, h Harness) {
	t.Helper()
	s := &suite{Harness: h}
	for _, c := range []struct {
		name string
		try  func(*testing.T)
	}{
		{"first fetch is complete", s.first},
		{"all or nothing", s.partial},
		{"all or nothing after an edit", s.partialLater},
		{"unchanged is equal", s.unchanged},
		{"another node gives the same versions", s.anotherNode},
		{"changed is different", s.changed},
		{"denied gets nothing", s.denied},
		{"denied after others had it", s.deniedAfter},
		{"many at once", s.concurrent},
		{"canceled before it begins", s.canceled},
		{"an edit that is refused, and back", s.refusedEdits},
		{"a first fetch that is refused", s.refusedFirst},
		{"credentials are made last", s.credentialsLast},
		{"a refused object never enters the files", s.refusedObject},
		{"release", s.release},
		{"keep", s.keep},
		{"keep what cannot be read", s.rubbish},
		{"canceled while the store hangs", s.hanging},
	} {
		t.Run(c.name, c.try)
	}
}

type suite struct {
	Harness
	mu      sync.Mutex
	volumes int
}

// denial is the reason of the provider's denials.
func (s *suite) denial() fault.Reason {
	if s.Hearsay {
		return fault.Unverified
	}
	return fault.Denied
}

// volume is a new volume id.
func (s *suite) volume() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.volumes++
	return fmt.Sprintf("csi-conformance-%d", s.volumes)
}

// fetch fails the test on an error.
func (s *suite) fetch(t *testing.T, r provider.Request) *provider.Payload {
	t.Helper()
	return fetchFrom(t, s.Provider, r)
}

func fetchFrom(t *testing.T, from provider.Provider, r provider.Request) *provider.Payload {
	t.Helper()
	p, err := from.Fetch(t.Context(), r)
	if err != nil {
		t.Fatalf("Fetch: %v", err)
	}
	if p.Partial != nil {
		t.Errorf("Fetch gave the former content for part of the payload: %v", p.Partial)
	}
	return p
}

// refuse wants an error with a reason and without secrets.
func (s *suite) refuse(t *testing.T, ctx context.Context, r provider.Request) error {
	t.Helper()
	p, err := s.Provider.Fetch(ctx, r)
	if err == nil {
		t.Fatalf("Fetch gave %d files, want an error", len(p.Files))
	}
	if p != nil {
		t.Errorf("Fetch gave a payload together with the error %v", err)
	}
	s.wellTold(t, err)
	return err
}

// wellTold checks that an error has a reason and no secrets.
func (s *suite) wellTold(t *testing.T, err error) {
	t.Helper()
	if fault.Of(err) == fault.Internal {
		t.Errorf("the error has no reason: %v", err)
	}
	for _, secret := range s.Secrets() {
		if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, secret) {
			t.Errorf("the error holds the secret %q: %s", secret, text)
		}
	}
}

func contents(p *provider.Payload) map[string]string {
	m := map[string]string{}
	for _, f := range p.Files {
		m[f.Path] = fmt.Sprintf("%o %s", f.Mode, f.Contents.Reveal())
	}
	return m
}

func (s *suite) first(t *testing.T) {
	p := s.fetch(t, s.Allowed(t, s.volume()))
	if len(p.Files) < 2 {
		t.Fatalf("the payload has %d files, the harness must ask for two or more", len(p.Files))
	}
	if len(p.Versions) != len(p.Files) {
		t.Errorf("%d versions for %d files", len(p.Versions), len(p.Files))
	}
	seen := map[string]bool{}
	for _, v := range p.Versions {
		if v.ID == "" || v.Version == "" || seen[v.ID] {
			t.Errorf("version %+v is empty or doubled", v)
		}
		seen[v.ID] = true
	}
	for _, f := range p.Files {
		for _, v := range p.Versions {
			if f.Contents.Len() > 0 && strings.Contains(v.Version, string(f.Contents.Reveal())) {
				t.Errorf("the version of %s shows the contents of %s", v.ID, f.Path)
			}
		}
	}
}

func (s *suite) partial(t *testing.T) {
	err := s.refuse(t, t.Context(), s.Partial(t, s.volume()))
	if got := fault.Of(err); got != fault.NotFound {
		t.Errorf("the reason is %s, want %s: %v", got, fault.NotFound, err)
	}
}

// partialLater edits a live volume's class to have an object that does not exist: there is no former
// content for it.
func (s *suite) partialLater(t *testing.T) {
	volume := s.volume()
	r := s.Allowed(t, volume)
	r.Current = s.fetch(t, r).Versions
	edited := s.Partial(t, volume)
	edited.Current = r.Current
	if got := fault.Of(s.refuse(t, t.Context(), edited)); got != fault.NotFound {
		t.Errorf("the reason is %s, want %s", got, fault.NotFound)
	}
	s.fetch(t, r) // the class as it was still works
}

func (s *suite) unchanged(t *testing.T) {
	r := s.Allowed(t, s.volume())
	a := s.fetch(t, r)
	r.Current = a.Versions
	b := s.fetch(t, r)
	r.Fresh = true
	c := s.fetch(t, r)
	for name, p := range map[string]*provider.Payload{"second": b, "fresh": c} {
		if !slices.Equal(a.Versions, p.Versions) || !maps.Equal(contents(a), contents(p)) {
			t.Errorf("the %s fetch differs though nothing changed: versions %v, then %v", name, a.Versions, p.Versions)
		}
	}
}

func (s *suite) changed(t *testing.T) {
	r := s.Allowed(t, s.volume())
	a := s.fetch(t, r)
	s.Change(t)
	r.Fresh, r.Current = true, a.Versions
	b := s.fetch(t, r)
	if slices.Equal(a.Versions, b.Versions) || maps.Equal(contents(a), contents(b)) {
		t.Errorf("a change in the store does not show: versions %v", b.Versions)
	}
	other := s.fetch(t, s.Allowed(t, s.volume()))
	if !maps.Equal(contents(other), contents(b)) {
		t.Error("a new volume gets other contents than a fresh one")
	}
}

func (s *suite) denied(t *testing.T) {
	err := s.refuse(t, t.Context(), s.Denied(t, s.volume()))
	if got := fault.Of(err); got != s.denial() {
		t.Errorf("the reason is %s, want %s: %v", got, s.denial(), err)
	}
}

// deniedAfter has another pod fetch the same first, which a provider must not share.
func (s *suite) deniedAfter(t *testing.T) {
	s.fetch(t, s.Allowed(t, s.volume()))
	r := s.Denied(t, s.volume())
	for range 2 {
		if err := s.refuse(t, t.Context(), r); fault.Of(err) != s.denial() {
			t.Errorf("the reason is %s, want %s: %v", fault.Of(err), s.denial(), err)
		}
	}
}

// concurrent mixes allowed and denied volumes, each fetched more than once.
func (s *suite) concurrent(t *testing.T) {
	const volumes = 12
	var wg sync.WaitGroup
	results := make([]map[string]string, volumes)
	for i := range volumes {
		allowed, denied := s.Allowed(t, s.volume()), s.Denied(t, s.volume())
		wg.Go(func() {
			for range 2 {
				p, err := s.Provider.Fetch(t.Context(), allowed)
				if err != nil {
					t.Errorf("Fetch of %s: %v", allowed.Volume, err)
					return
				}
				results[i] = contents(p)
			}
			s.releaseOf(t, allowed.Volume)
		})
		wg.Go(func() {
			if p, err := s.Provider.Fetch(t.Context(), denied); fault.Of(err) != s.denial() || p != nil {
				t.Errorf("a denied volume among others: %v, %v", p, err)
			}
		})
	}
	wg.Wait()
	for i := 1; i < volumes; i++ {
		if !maps.Equal(results[0], results[i]) {
			t.Error("volumes that ask for the same differ")
		}
	}
}

func (s *suite) canceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.refuse(t, ctx, s.Allowed(t, s.volume()))
	if got := fault.Of(err); got != fault.Canceled {
		t.Errorf("the reason is %s, want %s: %v", got, fault.Canceled, err)
	}
}
