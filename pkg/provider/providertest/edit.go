package providertest

import (
	"maps"
	"slices"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Credentials is how a store that makes a credential at each read is tried.
type Credentials struct {
	// Allowed asks for one credential.
	Allowed func(t *testing.T, volume string) provider.Request
	// Edits are what becomes of such a request by edits of its class that the
	// store refuses: by name, functions that change the class's parameters.
	Edits map[string]func(parameters map[string]string)
	// Made is how many credentials the store has made so far.
	Made func(t *testing.T) int
}

// edit makes a request by an edited class.
func edit(r provider.Request, change func(map[string]string)) provider.Request {
	c := *r.Class
	c.Parameters = maps.Clone(c.Parameters)
	change(c.Parameters)
	r.Class, r.Fresh = &c, true
	return r
}

// refusedEdits tries what the driver does while the store refuses an edited
// class: it asks by the class as it is now, and then keeps the volume up by the
// former one. When the edit is taken back, the volume still has its credential.
func (s *suite) refusedEdits(t *testing.T) {
	if s.Credentials == nil {
		t.Skip("the harness has no credentials")
	}
	for name, change := range s.Credentials.Edits {
		t.Run(name, func(t *testing.T) {
			r := s.Credentials.Allowed(t, s.volume())
			first := s.fetch(t, r)
			r.Current = first.Versions
			made := s.Credentials.Made(t)
			for range 3 {
				s.refuse(t, t.Context(), edit(r, change))
				former := r
				former.Upkeep = true
				s.wantSame(t, first, s.fetch(t, former))
			}
			s.wantSame(t, first, s.fetch(t, r))
			if now := s.Credentials.Made(t); now != made {
				t.Errorf("the store made %d credentials more, want none", now-made)
			}
		})
	}
}

// refusedFirst tries a first publish that the store refuses, again and again: no
// credential is made that no pod would ever have.
func (s *suite) refusedFirst(t *testing.T) {
	if s.Credentials == nil {
		t.Skip("the harness has no credentials")
	}
	for name, change := range s.Credentials.Edits {
		t.Run(name, func(t *testing.T) {
			r := s.Credentials.Allowed(t, s.volume())
			made := s.Credentials.Made(t)
			for range 3 {
				s.refuse(t, t.Context(), edit(r, change))
			}
			if now := s.Credentials.Made(t); now != made {
				t.Errorf("the store made %d credentials, want none", now-made)
			}
		})
	}
}

func (s *suite) wantSame(t *testing.T, want, got *provider.Payload) {
	t.Helper()
	if !maps.Equal(contents(want), contents(got)) || !slices.Equal(want.Versions, got.Versions) {
		t.Errorf("the volume has other files or versions now: %v, before %v", got.Versions, want.Versions)
	}
}
