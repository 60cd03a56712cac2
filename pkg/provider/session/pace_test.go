package session

import (
	"context"
	"encoding/json"
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// issuing is a store that issues a credential of a life at each request.
type issuing struct {
	life   time.Duration
	now    time.Time
	issued int
}

func (s *issuing) Parse(c *class.Class) (*Spec, error) {
	q := &Request{ID: "a", Name: "a", Keys: []string{""}}
	return &Spec{Class: c.Ref, Login: host("h"), Objects: []*Object{{Name: "a", Request: q}}, Requests: []*Request{q}, Interval: 24 * time.Hour}, nil
}

func (s *issuing) Identify(*Spec, Bearer, identity.Claims) Identity {
	return Identity{Login: host("h")}
}
func (s *issuing) Open(context.Context, *Caller) (Session, error)          { return s, nil }
func (s *issuing) File(_ *Object, a *Answer) ([]byte, error)               { return a.Body, nil }
func (s *issuing) Values(a *Answer) (map[string][]byte, error)             { return params.Values(a.Body) }
func (s *issuing) Version(_ *Object, _ *Answer, hash func() string) string { return hash() }
func (s *issuing) ReadLogin(json.RawMessage) (Login, error)                { return host("h"), nil }
func (s *issuing) Restored(Login, string, Kind, *Answer) error             { return nil }
func (s *issuing) Traits() Traits                                          { return Traits{} }

func (s *issuing) Login(context.Context) (*Token, bool, error) {
	return NewToken(host("h"), Grant{Value: "t"}, s.now, 0), false, nil
}

func (s *issuing) Issues(*Request) bool            { return true }
func (s *issuing) Leases(*Request) bool            { return false }
func (s *issuing) Batches([]*Request) [][]*Request { return nil }
func (s *issuing) Warnings() []string              { return nil }

func (s *issuing) Read(context.Context, Tokens, []*Request) (map[*Request]Read, error) {
	return nil, nil
}

func (s *issuing) Issue(context.Context, Tokens, *Request) (*Reading, error) {
	s.issued++
	id := strconv.Itoa(s.issued)
	return &Reading{Answer: &Answer{Body: []byte(id), LeaseID: id}, Kind: Leased, Asked: s.now, Read: s.now, At: s.now, End: s.now.Add(s.life)}, nil
}

func (s *issuing) Revoke(context.Context, Revocation, func(context.Context, bool) (*Token, error)) error {
	return nil
}

// TestPaceOfCredentials fetches a credential again and again: the next one is issued in time, and not
// without a pause.
func TestPaceOfCredentials(t *testing.T) {
	for life, want := range map[time.Duration]time.Duration{
		time.Second: 5 * time.Second, 15 * time.Second: 10 * time.Second, time.Hour: 40 * time.Minute,
	} {
		store := &issuing{life: life, now: epoch}
		settings := endpoint.Settings{Now: func() time.Time { return store.now }, Jitter: func() float64 { return 0 }}
		testkit.Must(t, settings.Complete())
		e := New(&settings, nil, store)
		r := provider.Request{Volume: "v", Class: &class.Class{}}
		for _, step := range []struct {
			at     time.Duration
			issued int
		}{{0, 1}, {want / 3, 1}, {want * 93 / 100, 1}, {want, 2}, {want + want*93/100, 2}, {2 * want, 3}} {
			store.now = after(step.at)
			p, err := e.Fetch(t.Context(), r)
			testkit.Must(t, err)
			r.Current = p.Versions
			if store.issued != step.issued {
				t.Errorf("a credential of %s: %d issued after %s, want %d", life, store.issued, step.at, step.issued)
			}
			if due := after(want * time.Duration(step.issued)); step.at%want != 0 && !p.RefreshAt.Equal(due) {
				t.Errorf("a credential of %s: to be looked at after %s, want %s", life, p.RefreshAt.Sub(epoch), due.Sub(epoch))
			}
		}
	}
}

// FuzzToken takes a token through a renewal: it is due before it ends, and not
// before it was given.
func FuzzToken(f *testing.F) {
	f.Add(int64(time.Hour), true, 0, 0.5, int64(time.Hour))
	f.Add(int64(time.Second), false, 3, 1.0, int64(0))
	f.Add(int64(1), true, 1, 0.0, int64(math.MaxInt64))
	f.Fuzz(func(t *testing.T, ttl int64, renewable bool, uses int, chance float64, renewed int64) {
		const longest = 100 * 365 * 24 * time.Hour
		if !(chance >= 0 && chance <= 1) {
			return
		}
		tok := NewToken(nil, Grant{Value: "t", TTL: min(time.Duration(ttl), longest), Renewable: renewable, Uses: uses}, epoch, chance)
		check := func(now time.Time, ttl int64) {
			due, ends := tok.dueTime(), tok.Expires()
			if forever := ttl <= 0; forever != ends.IsZero() || forever != due.IsZero() {
				t.Fatalf("a token of %d ns is due at %s and ends at %s", ttl, due, ends)
			}
			if !ends.IsZero() && (due.Before(now) || due.After(ends) || !ends.After(now)) {
				t.Errorf("a token of %d ns at %s is due at %s and ends at %s", ttl, now, due, ends)
			}
			if is, _ := tok.isDue(ends); is != !ends.IsZero() {
				t.Errorf("due at its end: %v", is)
			}
		}
		check(epoch, ttl)
		later := tok.dueTime()
		if later.IsZero() {
			later = after(time.Hour)
		}
		tok.extend(later, min(time.Duration(renewed), longest), chance)
		check(later, renewed)
	})
}

// TestOlderThan: after a restart a volume's older state does not replace a newer credential, nor a
// renewed one.
func TestOlderThan(t *testing.T) {
	of := func(at, ends time.Duration) *Credential {
		return &Credential{Reading: &Reading{At: after(at)}, ends: after(ends)}
	}
	now := of(time.Hour, 2*time.Hour)
	for name, c := range map[string]struct {
		other *Credential
		older bool
	}{
		"issued before":    {of(time.Minute, 3*time.Hour), true},
		"issued later":     {of(2*time.Hour, 90*time.Minute), false},
		"renewed since":    {of(time.Hour, time.Hour), true},
		"the same":         {of(time.Hour, 2*time.Hour), false},
		"before a renewal": {of(time.Hour, 3*time.Hour), false},
	} {
		if c.other.olderThan(now) != c.older {
			t.Errorf("%s: %t", name, !c.older)
		}
	}
}
