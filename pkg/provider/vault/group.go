package vault

import (
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/identity"
)

// identityKey is who asks, as far as the store can tell. Volumes with the same
// key are answered alike, so they share a login and reads.
type identityKey struct {
	login             login
	namespace         string
	serviceAccount    string
	serviceAccountUID string
	pod               string // the pod's UID where the identity is the pod's
}

// group is the volumes of one identity.
type group struct {
	key    identityKey
	logins flights[struct{}, *token]
	reads  flights[string, *reading]
	// holder has the credentials of scope serviceAccount.
	holder *holder

	mu     sync.Mutex
	token  *token
	recent map[string]*reading
	// noMetadata are the requests for which a look at the metadata does not
	// do, mostly because the policy does not allow it.
	noMetadata map[string]bool

	volumes map[string]struct{} // guarded by groups.mu
}

// reading is one answer and when it was had.
type reading struct {
	answer *answer
	kind   kind
	asked  time.Time // before the request left
	at     time.Time // when the answer was there
	end    time.Time // of the lifetime, or the announced change
	due    time.Time // of a static answer; others depend on the class
	absent bool      // the store has nothing there, and the class does not mind
	token  *token    // that it was asked with
}

// groups holds the identities that this node has volumes of.
type groups struct {
	mu    sync.Mutex
	byKey map[identityKey]*group
}

// join makes the volume a member.
func (s *groups) join(key identityKey, volume string) *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.byKey[key]
	if !ok {
		g = &group{key: key, holder: newHolder(), recent: map[string]*reading{}, noMetadata: map[string]bool{}, volumes: map[string]struct{}{}}
		s.byKey[key] = g
	}
	g.volumes[volume] = struct{}{}
	return g
}

// leave ends the membership. The last to leave gets the tokens, to end them.
func (s *groups) leave(g *group, volume string) []*token {
	if g == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(g.volumes, volume)
	if len(g.volumes) > 0 {
		return nil
	}
	if s.byKey[g.key] == g {
		delete(s.byKey, g.key)
	}
	tokens := g.holder.takeTokens()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.token != nil {
		tokens = append(tokens, g.token)
		g.token = nil
	}
	return tokens
}

// current is the token for reads; nil if there is none that lives and is not
// the stale one.
func (g *group) current(now time.Time, stale *token) *token {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.token == nil || g.token == stale || !g.token.alive(now) {
		return nil
	}
	return g.token
}

// adopt makes t the token for reads, and returns the one it takes the place
// of if that still lives.
func (g *group) adopt(t *token, now time.Time) *token {
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.token
	g.token = t
	if old == t || old == nil || !old.alive(now) {
		return nil
	}
	return old
}

// claim takes the token for reads away, because a lease hangs on it now.
func (g *group) claim(t *token) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if t == nil || g.token != t {
		return false
	}
	g.token = nil
	return true
}

func (g *group) lastReading(id string) *reading {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.recent[id]
}

// remember keeps a reading for the other volumes.
func (g *group) remember(id string, rd *reading) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.recent) >= maxRecent {
		clear(g.recent)
	}
	g.recent[id] = rd
}

func (g *group) setNoMetadata(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.noMetadata) >= maxRecent {
		clear(g.noMetadata)
	}
	g.noMetadata[id] = true
}

func (g *group) hasNoMetadata(id string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.noMetadata[id]
}

// maxRecent bounds what edits of classes can leave behind in a group.
const maxRecent = 4096

// learned remembers what the store's answers taught: which requests lease or
// mint, and which logins are bound to pods.
type learned struct {
	mu    sync.Mutex
	kinds map[requestKey]kind
	bound map[login]bool
}

type requestKey struct {
	target       target
	namespace    string
	method, path string
}

func keyOf(l login, r *request) requestKey {
	return requestKey{l.target, l.namespace, r.method, r.path}
}

func (k *learned) kindOf(l login, r *request) (kind, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	found, ok := k.kinds[keyOf(l, r)]
	return found, ok
}

func (k *learned) setKind(l login, r *request, is kind) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.kinds) >= maxRecent {
		clear(k.kinds)
	}
	k.kinds[keyOf(l, r)] = is
}

func (k *learned) isBound(l login) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.bound[l]
}

func (k *learned) setBound(l login) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.bound) >= maxRecent {
		clear(k.bound)
	}
	k.bound[l] = true
}

// identify makes the key of a pod's identity. Where it is not yet known how
// the store sees it, the service account is tried first: the answer to the
// login corrects it.
func (k *learned) identify(l login, pod identity.Pod, claims identity.Claims) identityKey {
	key := identityKey{login: l, namespace: pod.Namespace, serviceAccount: pod.ServiceAccount, serviceAccountUID: claims.ServiceAccountUID}
	if claims.ServiceAccountUID == "" || l.sharing == sharePod || k.isBound(l) {
		key.pod = pod.UID
	}
	return key
}
