package session

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// group is the volumes of one identity: what they ask is answered alike.
type group struct {
	key Identity
	// current is the token for reads.
	current current
	logins  singleflight.Group[struct{}, *Token]
	reads   singleflight.Group[string, map[string]Read]
	recent  *cache
	// lookups tell whether the server knows a token.
	lookups singleflight.Group[*Token, bool]
	// credentials are those of scope serviceAccount.
	credentials *credentials
	// answeredBy is the store's second address while that answers, else empty.
	answeredBy atomic.Pointer[string]
	// facts are what the store's code has learned of the identity.
	facts Memory[string, any]
	// members are the ids of the volumes, guarded by groups.mu.
	members map[string]struct{}
}

// second is the store's second address if that answered last, else empty.
func (g *group) second() string {
	if g == nil {
		return "" // the volume has joined none
	}
	if second := g.answeredBy.Load(); second != nil {
		return *second
	}
	return ""
}

// noteAnswer notes the second address if that answered, else "". It tells whether
// the last answer was of the other.
func (g *group) noteAnswer(second string) bool {
	before := g.answeredBy.Swap(&second)
	if before == nil {
		return second != ""
	}
	return *before != second
}

// groups are the identities that this node has volumes of.
type groups struct {
	store  Store
	budget *budget.Budget
	// revokesTokens is of Traits.
	revokesTokens bool
	// podBound are the logins that the store took for a pod's own.
	podBound Memory[Login, struct{}]

	mu         sync.Mutex
	byIdentity map[Identity]*group
}

// identify makes the key of a bearer's identity. It is an error where the login
// takes a service account token and there is no valid one.
func (s *groups) identify(spec *Spec, b Bearer, now time.Time) (Identity, error) {
	var claims identity.Claims
	if spec.AsPod {
		token, err := b.Tokens.For(spec.Audience, now)
		if err != nil {
			return Identity{}, err
		}
		claims = token.Claims
	}
	return s.corrected(s.store.Identify(spec, b, claims), b), nil
}

// isPodBound tells whether the store took a login for a pod's own.
func (s *groups) isPodBound(l Login) bool { return s.podBound.Has(l) }

// setPodBound notes that it did.
func (s *groups) setPodBound(l Login) { s.podBound.Set(l, struct{}{}) }

// corrected is the identity by what logins have taught. Where it is not yet known
// how the store sees it, the service account is tried first.
func (s *groups) corrected(key Identity, b Bearer) Identity {
	if s.isPodBound(key.Login) {
		key.Pod = b.Pod.UID
	}
	return key
}

// join makes a volume a member. The first one makes the group.
func (s *groups) join(key Identity, volume string) *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.byIdentity[key]
	if !ok {
		if s.byIdentity == nil {
			s.byIdentity = map[Identity]*group{}
		}
		owner := budget.Owner{Namespace: key.Namespace}
		g = &group{key: key, credentials: newCredentials(s.budget, owner), recent: newCache(s.budget, owner), members: map[string]struct{}{}}
		s.byIdentity[key] = g
	}
	g.members[volume] = struct{}{}
	return g
}

// find is the group of an identity; nil where this node has no volume of it.
func (s *groups) find(key Identity) *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byIdentity[key]
}

// leave ends the membership. The last to leave gets what is to be revoked.
func (s *groups) leave(g *group, volume string) []Revocation {
	if g == nil || s.hasOthers(g, volume) {
		return nil
	}
	g.recent.close()
	list := g.credentials.take()
	if t := g.current.replace(nil); t != nil && s.revokesTokens {
		list = append(list, Revocation{Login: t.Login, Token: t})
	}
	return list
}

// hasOthers takes a volume out of a group, and tells whether it goes on.
func (s *groups) hasOthers(g *group, volume string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byIdentity[g.key] != g {
		return false // it ended before
	}
	delete(g.members, volume)
	if len(g.members) > 0 {
		return true
	}
	delete(s.byIdentity, g.key)
	return false
}
