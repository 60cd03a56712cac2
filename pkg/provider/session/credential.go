package session

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// Revocation is what must be revoked with a volume: a token with all its leases, or one
// lease.
type Revocation struct {
	Login Login
	Token *Token // nil for a credential
	// Name, LeaseID and Expires are the credential's.
	Name    string
	LeaseID string
	Expires time.Time
}

// alive reports whether it has not expired.
func (r Revocation) alive(now time.Time) bool {
	if r.Token != nil {
		return r.Token.alive(now)
	}
	return now.Before(r.Expires)
}

// Credential is a credential that was issued for one volume or identity. It is never
// changed, only replaced.
type Credential struct {
	*Reading
	id    string // of the request
	name  string // of the request, for messages
	login Login
	due   time.Time
	ends  time.Time
	token *Token // whose end also ends the lease; nil for none
	// replace says that the lease cannot be extended any more.
	replace bool
	// early says that it was issued unusually soon after the one before.
	early bool
	// known is when the store last confirmed the lease.
	known time.Time
}

// newCredential returns a credential that was just issued.
func (s *Spec) newCredential(r *Request, rd *Reading, hangsOnToken bool, chance float64) *Credential {
	c := &Credential{Reading: rd, id: r.ID, name: r.Name, login: s.Login, ends: rd.End, due: s.dueOf(r, rd.Kind, rd.At, rd.End, chance)}
	if rd.Kind == Leased && hangsOnToken {
		c.token, c.known = rd.Token, rd.At
		c.token.leased.Store(true)
	}
	return c
}

// revocation returns the revocation of the credential's own lease; false if it ends with
// its token, or cannot be revoked.
func (c *Credential) revocation() (Revocation, bool) {
	r := Revocation{Login: c.login, Name: c.name, Expires: c.ends}
	if c.Answer != nil {
		r.LeaseID = c.Answer.LeaseID
	}
	return r, c.Kind == Leased && c.token == nil && r.LeaseID != ""
}

// valid reports whether the credential has not expired.
func (c *Credential) valid(now time.Time) bool { return c.ends.IsZero() || c.ends.After(now) }

// dueTime returns when the lease, or its token, must be renewed or checked.
func (c *Credential) dueTime() time.Time {
	if c.token == nil {
		return c.due
	}
	return clock.Earliest(c.due, c.token.dueTime(), c.known.Add(leaseUnseen))
}

// renewed returns the credential after its lease was extended.
func (c *Credential) renewed(now time.Time, granted time.Duration, chance float64) *Credential {
	next := *c
	next.ends, next.known = now.Add(granted), now
	next.due = twoThirds(now, next.ends, chance)
	if fellShort(c.Answer.Duration, granted) {
		next.replace, next.due = true, now
	}
	return &next
}

// life returns the lifetime at the issue: the shorter of its lease's and its token's.
func (c *Credential) life() time.Duration {
	life := c.ends.Sub(c.At)
	if c.token != nil {
		if ttl := c.token.granted(); ttl > 0 && ttl < life {
			return ttl
		}
	}
	return life
}

// olderThan reports whether o is a newer credential, or the same one after a renewal.
func (c *Credential) olderThan(o *Credential) bool {
	if !c.At.Equal(o.At) {
		return c.At.Before(o.At)
	}
	return c.ends.Before(o.ends)
}

// credentials has the credentials that were issued for one volume or, with
// credentialScope serviceAccount, for one identity. Their leases belong to tokens of
// separate logins, so revoking such a token ends these credentials and nothing else.
type credentials struct {
	issues   singleflight.Group[string, *Credential]
	logins   singleflight.Group[struct{}, *Token]
	renewals singleflight.Group[*Token, bool]

	budget *budget.Budget
	owner  budget.Owner

	mu     sync.Mutex
	charge *budget.Charge // for the answers
	tokens []*Token       // the newest is last; older ones stay until their leases expire
	byID   map[string]*Credential
	// replaced are credentials that newer ones have replaced. Programs may still use
	// them, so they stay valid until they expire or the volume is gone.
	replaced []Revocation
}

func newCredentials(b *budget.Budget, o budget.Owner) *credentials {
	return &credentials{budget: b, owner: o, byID: map[string]*Credential{}}
}

// account charges for the current answers. The caller holds mu. An answer stays even if
// there is no room, because only a new credential could replace it; there are at most as
// many as files.
func (s *credentials) account() {
	size := int64(0)
	for _, c := range s.byID {
		size += c.Size()
	}
	if s.charge == nil {
		s.charge, _ = s.budget.Acquire(s.owner, budget.Answers, 0)
	}
	_ = s.charge.Resize(size)
}

func (s *credentials) get(id string) *Credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// put adds a credential. If it replaces one with a lease of its own, that lease is
// revoked with the volume.
func (s *credentials) put(c *Credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.byID[c.id]; old != nil && old.Reading != c.Reading {
		s.supersede(old)
	}
	s.byID[c.id] = c
	s.account()
}

// supersede moves a credential to the replaced ones. The caller holds mu.
func (s *credentials) supersede(c *Credential) {
	if r, ok := c.revocation(); ok {
		s.replaced = append(s.replaced, r)
	}
}

// prune drops replaced credentials that have expired.
func (s *credentials) prune(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replaced = slices.DeleteFunc(s.replaced, func(r Revocation) bool { return !r.alive(now) })
}

// retain drops credentials of requests that are not wanted any more. Their leases are not
// renewed, so they expire.
func (s *credentials) retain(wanted map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.byID {
		if !wanted[id] {
			delete(s.byID, id)
			s.supersede(c)
		}
	}
	s.account()
}

// all returns the credentials, in no order.
func (s *credentials) all() []*Credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.byID))
}

// parent returns the newest token that is valid; nil if there is none.
func (s *credentials) parent(now time.Time) *Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = slices.DeleteFunc(s.tokens, func(t *Token) bool { return !t.alive(now) })
	if len(s.tokens) == 0 {
		return nil
	}
	return s.tokens[len(s.tokens)-1]
}

// addToken makes t the parent of the next credentials.
func (s *credentials) addToken(t *Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.tokens, t) {
		s.tokens = append(s.tokens, t)
	}
}

// takeIdle removes and returns the oldest tokens without leases, if they are too many.
func (s *credentials) takeIdle(l Login) (idle []*Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens, idle = splitIdle(s.tokens, l, func(t *Token) *Token { return t })
	return idle
}

func (s *credentials) hasToken(t *Token) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.tokens, t)
}

// take removes and returns everything that must be revoked.
func (s *credentials) take() []Revocation {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.listed()
	s.tokens, s.byID, s.replaced = nil, map[string]*Credential{}, nil
	s.account()
	return list
}

// revocations returns what take would return.
func (s *credentials) revocations() []Revocation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listed()
}

// listed is revocations for a caller that holds mu.
func (s *credentials) listed() []Revocation {
	list := slices.Clone(s.replaced)
	for _, c := range s.byID {
		if r, ok := c.revocation(); ok {
			list = append(list, r)
		}
	}
	for _, t := range s.tokens {
		list = append(list, Revocation{Login: t.Login, Token: t})
	}
	return list
}

// revocable reports whether there is a credential with a lease of its own.
func (s *credentials) revocable(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.byID {
		if r, ok := c.revocation(); ok && r.alive(now) {
			return true
		}
	}
	return slices.ContainsFunc(s.replaced, func(r Revocation) bool { return r.alive(now) })
}
