package session

import (
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

// group is the volumes of one identity.
type group struct {
	key Identity
	// current is the token for reads.
	current current
	logins  singleflight.Group[struct{}, *Token]
	reads   singleflight.Group[string, map[string]Read]
	recent  *Cache[*Reading]
	// lookups tell whether the server knows a token.
	lookups singleflight.Group[*Token, bool]
	// credentials are those of scope serviceAccount.
	credentials *credentials
	// facts are what the store's code has learned of the identity.
	facts Memory[string, any]
}

// groups holds the identities that this node has volumes of.
type groups struct {
	Groups[Identity, group]
	budget *budget.Budget
	// revokesTokens is of Traits.
	revokesTokens bool
}

func (s *groups) join(key Identity, volume string) *group {
	return s.Join(key, volume, func(key Identity) *group {
		owner := budget.Owner{Namespace: key.Namespace}
		return &group{key: key, credentials: newCredentials(s.budget, owner), recent: NewCache[*Reading](s.budget, owner)}
	})
}

// leave ends the membership. The last to leave gets what is to be revoked.
func (s *groups) leave(g *group, volume string) []Revocation {
	if g == nil || !s.Leave(g.key, g, volume) {
		return nil
	}
	g.recent.Close()
	list := g.credentials.take()
	if t := g.current.replace(nil); t != nil && s.revokesTokens {
		list = append(list, Revocation{Login: t.Login, Token: t})
	}
	return list
}

// identityState is what a volume has as one identity.
type identityState struct {
	group       *group // nil until it has joined one
	bearer      Bearer
	credentials *credentials
	readings    *Cache[*Reading]
	// spec is the class that was last answered in full, without its objects;
	// nil after a restart.
	spec *Spec
}

// volume is what the engine knows of one volume.
type volume struct {
	id     string
	budget *budget.Budget
	owner  budget.Owner
	// doubts are the refusals that may not be the store's last word.
	doubts Doubts
	// inFiles are the requests that the files were last made of.
	inFiles map[string]bool

	mu sync.Mutex
	identityState
	// superseded is of the identity before an edit of the class, until the new
	// one is answered; nil for none. So an edit that the store refuses, and that
	// is taken back, costs nothing.
	superseded *identityState
	// revocations are left from earlier identities and logins.
	revocations []Revocation
	// issuing are closed when what is being issued for the volume is there, or
	// is not to be had.
	issuing []<-chan struct{}
}

func newVolume(id, namespace string, b *budget.Budget) *volume {
	v := &volume{id: id, budget: b, owner: budget.Owner{Namespace: namespace, Volume: id}}
	v.identityState = v.nothing()
	return v
}

// nothing is what a volume has as a new identity.
func (v *volume) nothing() identityState {
	return identityState{credentials: newCredentials(v.budget, v.owner), readings: NewCache[*Reading](v.budget, v.owner)}
}

// now is what the volume has as its present identity.
func (v *volume) now() identityState {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.identityState
}

// owns tells whether credentials are the volume's.
func (v *volume) owns(s *credentials) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return s == v.credentials || v.superseded != nil && s == v.superseded.credentials
}

// retain drops the answers to what neither the class nor the files are of.
func (v *volume) retain(s *Spec, now time.Time) {
	wanted := s.ids()
	for id := range v.inFiles {
		wanted[id] = true
	}
	state := v.now()
	state.credentials.retain(wanted, now)
	state.readings.Retain(wanted)
}

// prune forgets the revocations of what has expired.
func (v *volume) prune(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.revocations = slices.DeleteFunc(v.revocations, func(r Revocation) bool { return !r.alive(now) })
}

// Add implements Volume.
func (v *volume) Add(list []Revocation) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.revocations = append(v.revocations, list...)
}

// Take implements Volume.
func (v *volume) Take() []Revocation {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := append(v.credentials.take(), v.revocations...)
	if v.superseded != nil {
		list = append(list, v.superseded.credentials.take()...)
	}
	v.revocations = nil
	return list
}

// takeSuperseded gives up what the volume has of an earlier identity; nil for
// nothing.
func (v *volume) takeSuperseded() *identityState {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.superseded
	v.superseded = nil
	return s
}

// enter makes the volume a member of an identity's group.
func (e *Engine) enter(v *volume, key Identity, b Bearer) {
	old := v.now()
	var left []Revocation
	switch {
	case old.group == nil:
	case old.bearer.Pod != b.Pod:
		e.endSuperseded(v)
		left = append(old.credentials.take(), e.groups.leave(old.group, v.id)...)
		v.forget()
	case old.group.key == key:
	case old.group.key.sameBut(key):
		// Another view of the same identity, as after the first login with a
		// pod-bound role, does not touch what the volume has by itself.
		left = e.groups.leave(old.group, v.id)
	default:
		e.changeIdentity(v, key)
		if now := v.now().group; now != nil && now.key != key {
			left = e.groups.leave(now, v.id)
		}
	}
	v.Add(left) // to be revoked with the volume
	g := e.groups.join(key, v.id)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.group, v.bearer = g, b
}

// forget gives up the volume's identity. What was leased under it stays valid
// until it ends or the volume is released, because the files still hold it.
func (v *volume) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.readings.Close()
	v.identityState = v.nothing()
}

// changeIdentity has the volume go on under another identity of its pod: the
// superseded one, or a new one. What it had under an identity that was never
// answered is given up.
func (e *Engine) changeIdentity(v *volume, key Identity) {
	v.mu.Lock()
	now := v.identityState
	over := &now
	switch s := v.superseded; {
	case s == nil:
		v.superseded, over = &now, nil
		v.identityState = v.nothing()
	case s.group.key.sameBut(key):
		v.superseded = nil
		v.identityState = *s
	default:
		v.identityState = v.nothing()
	}
	v.mu.Unlock()
	e.giveUp(v, over)
}

// giveUp has what a volume had under one identity revoked with the volume, as
// programs may still use it.
func (e *Engine) giveUp(v *volume, s *identityState) {
	if s == nil {
		return
	}
	s.readings.Close()
	v.Add(s.credentials.take())
	if s.group != v.now().group {
		v.Add(e.groups.leave(s.group, v.id))
	}
}

// endSuperseded ends the earlier identity: the files are of the new one now.
func (e *Engine) endSuperseded(v *volume) { e.giveUp(v, v.takeSuperseded()) }
