package session

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/bounded"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider/session/cache"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// group is the volumes of one identity, which get the same answers.
type group struct {
	key Identity
	// current is the token for reads; nil for none.
	current atomic.Pointer[Token]
	logins  singleflight.Group[struct{}, *Token]
	reads   singleflight.Group[string, map[string]Read]
	recent  *cache.Cache[*Reading]
	// lookups has the checks whether the server knows a token.
	lookups singleflight.Group[*Token, bool]
	// credentials are those of scope serviceAccount.
	credentials *credentials
	// answeredBy is the store's second address if that answered last, else empty.
	answeredBy atomic.Pointer[string]
	// facts has the facts that the store's code has learned about the identity.
	facts bounded.Map[string, any]
	// members has the ids of the volumes, guarded by groups.mu.
	members map[string]struct{}
}

// token returns the token for reads; nil if there is none, or it has expired or is stale.
func (g *group) token(now time.Time, stale *Token) *Token {
	if t := g.current.Load(); t != nil && t != stale && t.alive(now) {
		return t
	}
	return nil
}

// claim takes the token for reads from the group if it is t.
func (g *group) claim(t *Token) bool { return t != nil && g.current.CompareAndSwap(t, nil) }

// restore sets the token that expires last of those that the volumes of an identity
// exported, before any of them is fetched.
func (g *group) restore(t *Token) {
	if have := g.current.Load(); have == nil || t.outlives(have) {
		g.current.Store(t)
	}
}

// second returns the store's second address if that answered last, else empty.
func (g *group) second() string {
	if g == nil {
		return "" // the volume has no group yet
	}
	if second := g.answeredBy.Load(); second != nil {
		return *second
	}
	return ""
}

// noteAnswer records the second address if that answered, else "". It reports whether
// another address answered before.
func (g *group) noteAnswer(second string) bool {
	before := g.answeredBy.Swap(&second)
	if before == nil {
		return second != ""
	}
	return *before != second
}

// groups has the identities of the volumes on this node.
type groups struct {
	store  Store
	budget *budget.Budget
	// revokesTokens is that of Traits.
	revokesTokens bool
	// podBound has the logins that depend on the pod.
	podBound bounded.Map[Login, struct{}]

	mu         sync.Mutex
	byIdentity map[Identity]*group
}

// identify returns the identity of a bearer. It returns an error if the login needs a
// service account token and there is no valid one.
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

// corrected returns the identity after what logins have shown. If it is unknown whether
// the login depends on the pod, it is assumed not to.
func (s *groups) corrected(key Identity, b Bearer) Identity {
	if s.podBound.Has(key.Login) {
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
		g = &group{key: key, credentials: newCredentials(s.budget, owner), recent: cache.New[*Reading](s.budget, owner), members: map[string]struct{}{}}
		s.byIdentity[key] = g
	}
	g.members[volume] = struct{}{}
	return g
}

// find returns the group of an identity; nil if no volume on this node has it.
func (s *groups) find(key Identity) *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byIdentity[key]
}

// leave ends the membership. The last member gets what must be revoked.
func (s *groups) leave(g *group, volume string) []Revocation {
	if g == nil || s.hasOthers(g, volume) {
		return nil
	}
	g.recent.Close()
	list := g.credentials.take()
	if t := g.current.Swap(nil); t != nil && s.revokesTokens {
		list = append(list, Revocation{Login: t.Login, Token: t})
	}
	return list
}

// hasOthers removes a volume from a group, and reports whether others are left.
func (s *groups) hasOthers(g *group, volume string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byIdentity[g.key] != g {
		return false // the group ended before
	}
	delete(g.members, volume)
	if len(g.members) > 0 {
		return true
	}
	delete(s.byIdentity, g.key)
	return false
}
