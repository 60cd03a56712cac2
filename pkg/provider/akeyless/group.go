package akeyless

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// maxRecent bounds what edits of classes can leave behind.
const maxRecent = 4096

// identityKey is who asks, as far as the store can tell. Volumes with the same
// key are answered alike, so they share a login and reads.
type identityKey struct {
	Login             login
	Namespace         string
	ServiceAccount    string
	ServiceAccountUID string
	// Pod is the pod's UID where the store may tell pods apart.
	Pod string
	// Credential is a keyed hash of the access key or the like.
	Credential string
}

// identify makes the key of a bearer's identity.
func (p *Provider) identify(l login, b bearer) identityKey {
	key := identityKey{Login: l, Namespace: b.pod.Namespace, ServiceAccount: b.pod.ServiceAccount}
	if !l.Type.asPod() {
		key.Credential = p.keyed(b.given.Reveal())
		if l.Sharing == sharePod {
			key.Pod = b.pod.UID
		}
		return key
	}
	key.ServiceAccountUID = b.tokens[l.Audience].Claims.ServiceAccountUID
	shared := l.Sharing == shareServiceAccount || (l.Sharing == "" && (p.config.ShareByServiceAccount || !l.Type.seesPod()))
	if !shared || key.ServiceAccountUID == "" {
		key.Pod = b.pod.UID
	}
	return key
}

// keyed is a hash that nobody can make without the key.
func (p *Provider) keyed(parts ...string) string {
	mac := hmac.New(sha256.New, p.config.VersionKey.Reveal())
	for _, part := range parts {
		var size [8]byte
		for i := range size {
			size[i] = byte(len(part) >> (8 * i))
		}
		mac.Write(size[:])
		mac.Write([]byte(part))
	}
	return hex.EncodeToString(mac.Sum(nil)[:16])
}

// group is the volumes of one identity.
type group struct {
	key       identityKey
	logins    session.Flights[struct{}, *token]
	reads     session.Flights[string, map[string]*reading]
	described session.Flights[string, *description]
	// holder has the credentials of scope serviceAccount.
	holder *holder

	mu     sync.Mutex
	token  *token
	recent map[string]*reading
	// opaque are the items that the identity may read but not describe.
	opaque map[string]bool

	volumes map[string]struct{} // guarded by groups.mu
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
		g = &group{key: key, holder: newHolder(), recent: map[string]*reading{}, opaque: map[string]bool{}, volumes: map[string]struct{}{}}
		s.byKey[key] = g
	}
	g.volumes[volume] = struct{}{}
	return g
}

// find is the group of an identity, nil if this node has no volume of it.
func (s *groups) find(key identityKey) *group {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byKey[key]
}

// leave ends the membership. The last to leave gets the credentials of the
// whole group, to end them.
func (s *groups) leave(g *group, volume string) []*minted {
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
	return g.holder.takeAll()
}

// current is a token that lives and is not the stale one.
func (g *group) current(now time.Time, stale *token) *token {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.token == nil || g.token == stale || !g.token.alive(now) {
		return nil
	}
	return g.token
}

// adopt takes the token that lives longer.
func (g *group) adopt(t *token) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.token == nil || !t.expires.Before(g.token.expires) || t.born.After(g.token.born) {
		g.token = t
	}
}

func (g *group) last(id string) *reading {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.recent[id]
}

// remember keeps a reading for the other volumes, unless there is a newer one.
func (g *group) remember(id string, rd *reading) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if have := g.recent[id]; have != nil && have.Asked.After(rd.Asked) {
		return
	}
	if len(g.recent) >= maxRecent {
		clear(g.recent)
	}
	g.recent[id] = rd
}

func (g *group) setOpaque(name string, is bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.opaque) >= maxRecent {
		clear(g.opaque)
	}
	g.opaque[name] = is
}

func (g *group) isOpaque(name string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.opaque[name]
}
