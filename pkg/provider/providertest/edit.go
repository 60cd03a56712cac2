package providertest

import (
	"maps"
	"slices"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Credentials is how a store that makes a credential at each read is tried.
type Credentials struct {
	// Allowed asks for one credential.
	Allowed func(t *testing.T, volume string) provider.Request
	// Edits change the class's parameters to some that the store refuses.
	Edits map[string]func(parameters map[string]string)
	// Late asks for one credential, and for an object that is missing until Add is
	// called.
	Late func(t *testing.T, volume string) provider.Request
	Add  func(t *testing.T)
	// Made is how many credentials the store has made so far.
	Made func(t *testing.T) int
}

// Refused is how a store that refuses one of several objects is tried.
type Refused struct {
	// One asks for an object that stays allowed, and Three for that, for one that
	// will be refused, and for one that is missing until Refuse is called.
	One, Three func(t *testing.T, volume string) provider.Request
	// Refuse has the store refuse the second object, and have the third.
	Refuse func(t *testing.T)
}

// edit makes a request by an edited class.
func edit(r provider.Request, change func(map[string]string)) provider.Request {
	c := *r.Class
	c.Parameters = maps.Clone(c.Parameters)
	change(c.Parameters)
	r.Class, r.Fresh = &c, true
	return r
}

// refusedEdits does what the driver does while the store refuses an edited class: it fetches with the
// current class, and then with the former one. When the edit is undone, the volume still has its
// credential.
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

// refusedFirst repeats a first publish that the store refuses: the store issues no credential.
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

// credentialsLast repeats a first publish while an object is missing: the store issues the one
// credential once the other objects exist.
func (s *suite) credentialsLast(t *testing.T) {
	if s.Credentials == nil {
		t.Skip("the harness has no credentials")
	}
	r := s.Credentials.Late(t, s.volume())
	made := s.Credentials.Made(t)
	for again := range 4 {
		if err := s.refuse(t, t.Context(), r); fault.Of(err) != fault.NotFound {
			t.Fatalf("the reason is %s, want %s: %v", fault.Of(err), fault.NotFound, err)
		}
		if again%2 == 1 {
			s.releaseOf(t, r.Volume)
		}
	}
	if now := s.Credentials.Made(t); now != made {
		t.Errorf("the store made %d credentials in vain", now-made)
	}
	s.Credentials.Add(t)
	s.fetch(t, r)
	if now := s.Credentials.Made(t); now != made+1 {
		t.Errorf("the store made %d credentials, want one", now-made)
	}
}

// refusedObject has the store refuse an object that the identity has read, but that no file of the
// volume has: no file gets it, and the files stay as they are.
func (s *suite) refusedObject(t *testing.T) {
	if s.Refused == nil {
		t.Skip("the harness has no object to refuse")
	}
	volume := s.volume()
	one := s.Refused.One(t, volume)
	first := s.fetch(t, one)
	three := s.Refused.Three(t, volume)
	three.Current, three.Fresh = first.Versions, true
	if err := s.refuse(t, t.Context(), three); fault.Of(err) != fault.NotFound {
		t.Fatalf("the reason is %s, want %s: %v", fault.Of(err), fault.NotFound, err)
	}
	s.Refused.Refuse(t)
	for range 2 {
		err := s.refuse(t, t.Context(), three)
		if got := fault.Of(err); got != fault.Denied && got != fault.Unverified {
			t.Errorf("the reason is %s, want a denial: %v", got, err)
		}
		three.Fresh = false // not by a read that the identity had before, either
	}
	one.Current = first.Versions
	s.wantSame(t, first, s.fetch(t, one))
}

func (s *suite) wantSame(t *testing.T, want, got *provider.Payload) {
	t.Helper()
	if !maps.Equal(contents(want), contents(got)) || !slices.Equal(want.Versions, got.Versions) {
		t.Errorf("the volume has other files or versions now: %v, before %v", got.Versions, want.Versions)
	}
}
