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

// Revocation is what has to be ended with a volume: a token with all that hangs
// on it, or a credential by its lease id.
type Revocation struct {
	Login Login
	Token *Token // nil for a credential
	// Name, LeaseID and Expires are the credential's.
	Name    string
	LeaseID string
	Expires time.Time
}

// alive tells whether there is something left to revoke.
func (r Revocation) alive(now time.Time) bool {
	if r.Token != nil {
		return r.Token.alive(now)
	}
	return now.Before(r.Expires)
}

// Credential is what was issued for one volume or identity. It is replaced,
// never changed.
type Credential struct {
	*Reading
	id    string // of the request
	name  string // of the request, for people
	login Login
	due   time.Time
	ends  time.Time
	token *Token // that the lease hangs on; nil without
	// replace tells that the lease cannot be extended any more.
	replace bool
	// early tells that it was issued sooner after the one before than is usual.
	early bool
	// known is when the store last knew the lease.
	known time.Time
}

// newCredential notes a credential that was just issued.
func (s *Spec) newCredential(r *Request, rd *Reading, hangsOnToken bool, chance float64) *Credential {
	c := &Credential{Reading: rd, id: r.ID, name: r.Name, login: s.Login, ends: rd.End, due: s.dueOf(r, rd.Kind, rd.At, rd.End, chance)}
	if rd.Kind == Leased && hangsOnToken {
		c.token, c.known = rd.Token, rd.At
	}
	return c
}

// revocation is what ends the credential by itself; false where its token does,
// or nothing.
func (c *Credential) revocation() (Revocation, bool) {
	r := Revocation{Login: c.login, Name: c.name, Expires: c.ends}
	if c.Answer != nil {
		r.LeaseID = c.Answer.LeaseID
	}
	return r, c.Kind == Leased && c.token == nil && r.LeaseID != ""
}

// valid tells whether the credential works still.
func (c *Credential) valid(now time.Time) bool { return c.ends.IsZero() || c.ends.After(now) }

// dueTime is when something has to be done for it: for the lease, or for the
// token that the lease dies with.
func (c *Credential) dueTime() time.Time {
	if c.token == nil {
		return c.due
	}
	return clock.Earliest(c.due, c.token.dueTime(), c.known.Add(leaseUnseen))
}

// renewed is the credential after its lease was extended.
func (c *Credential) renewed(now time.Time, granted time.Duration, chance float64) *Credential {
	next := *c
	next.ends, next.known = now.Add(granted), now
	next.due = twoThirds(now, next.ends, chance)
	if fellShort(c.Answer.Duration, granted) {
		next.replace, next.due = true, now
	}
	return &next
}

// seen is the credential after the store was found to know its lease.
func (c *Credential) seen(now time.Time) *Credential {
	next := *c
	next.known = now
	return &next
}

// life is how long it was to live when it was issued: as long as its lease, and
// its token's grant.
func (c *Credential) life() time.Duration {
	life := c.ends.Sub(c.At)
	if c.token != nil {
		if ttl := c.token.granted(); ttl > 0 && ttl < life {
			return ttl
		}
	}
	return life
}

// until is the credential while it is kept to a moment, whatever is due before.
func (c *Credential) until(due time.Time) *Credential {
	next := *c
	next.due, next.token = due, nil
	return &next
}

func (c *Credential) issuedEarly() *Credential {
	next := *c
	next.early = true
	return &next
}

// olderThan tells whether o is a newer credential, or the same one after a
// renewal.
func (c *Credential) olderThan(o *Credential) bool {
	if !c.At.Equal(o.At) {
		return c.At.Before(o.At)
	}
	return c.ends.Before(o.ends)
}

// credentials are those that were issued for one volume or, with
// credentialScope serviceAccount, for one identity. Leases hang on tokens that
// were logged in for them alone, so revoking those ends these credentials and
// nothing else.
type credentials struct {
	issues   singleflight.Group[string, *Credential]
	logins   singleflight.Group[struct{}, *Token]
	renewals singleflight.Group[*Token, bool]

	budget *budget.Budget
	owner  budget.Owner

	mu     sync.Mutex
	charge *budget.Charge // for the answers
	tokens []*Token       // the newest is last; older ones live out their leases
	byID   map[string]*Credential
	// replaced are those that newer ones took the place of. Programs may still
	// use them, so they live until they end or the volume does.
	replaced []Revocation
}

func newCredentials(b *budget.Budget, o budget.Owner) *credentials {
	return &credentials{budget: b, owner: o, byID: map[string]*Credential{}}
}

// account charges what is there now, with mu held. What finds no room is kept
// all the same, since only a new credential could replace it: there are no more
// of them than files.
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

// put takes a credential in. The one before, if it is another one that has to be
// revoked by itself, is revoked with the volume.
func (s *credentials) put(c *Credential) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.byID[c.id]; old != nil && old.Reading != c.Reading {
		s.supersede(old)
	}
	s.byID[c.id] = c
	s.account()
}

// supersede is called with mu held.
func (s *credentials) supersede(c *Credential) {
	if r, ok := c.revocation(); ok {
		s.replaced = append(s.replaced, r)
	}
}

// retain drops credentials of requests that are no longer made, and what has
// expired of the replaced ones. Leases are not renewed any more, so they end by
// themselves or with the token.
func (s *credentials) retain(wanted map[string]bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, c := range s.byID {
		if !wanted[id] {
			delete(s.byID, id)
			s.supersede(c)
		}
	}
	s.account()
	s.replaced = slices.DeleteFunc(s.replaced, func(r Revocation) bool { return !r.alive(now) })
}

// all are the credentials, in no order.
func (s *credentials) all() []*Credential {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.byID))
}

// parent is the newest token; nil if none lives.
func (s *credentials) parent(now time.Time) *Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = slices.DeleteFunc(s.tokens, func(t *Token) bool { return !t.alive(now) })
	if len(s.tokens) == 0 {
		return nil
	}
	return s.tokens[len(s.tokens)-1]
}

// addToken makes t the parent of what is issued next.
func (s *credentials) addToken(t *Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.tokens, t) {
		s.tokens = append(s.tokens, t)
	}
}

func (s *credentials) hasToken(t *Token) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.tokens, t)
}

// take gives up all that is to be revoked.
func (s *credentials) take() []Revocation {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.listed()
	s.tokens, s.byID, s.replaced = nil, map[string]*Credential{}, nil
	s.account()
	return list
}

// revocations are what take would give up.
func (s *credentials) revocations() []Revocation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listed()
}

// listed is called with mu held.
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

// revocable tells whether there is a credential that is to be revoked by its
// lease id one day.
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
