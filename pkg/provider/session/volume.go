package session

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

var errReleased = fault.New(fault.Canceled, "the volume is going away")

// volumes are those of this node by id. The zero value is ready for use.
type volumes struct {
	mu   sync.Mutex
	byID map[string]*volume
}

// enter finds the volume, or begins it, and waits for its turn, which is over with
// leave. The work on it is to be done with the context that comes along, since
// that also ends with the volume.
func (s *volumes) enter(ctx context.Context, id string, begin func() *volume) (v *volume, work context.Context, leave func(), err error) {
	v = s.get(id, begin)
	if err := v.takeTurn(ctx); err != nil {
		return nil, nil, nil, err
	}
	if v.gone.Err() != nil {
		v.endTurn()
		return nil, nil, nil, errReleased
	}
	work, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(v.gone, func() { cancel(errReleased) })
	return v, work, func() { stop(); cancel(nil); v.endTurn() }, nil
}

// get hands what is still to be revoked of a released volume to the new one of
// its id.
func (s *volumes) get(id string, begin func() *volume) *volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.byID[id]
	if known && old.gone.Err() == nil {
		return old
	}
	v := begin()
	if known {
		v.add(old.take())
	}
	s.put(v)
	return v
}

// put is called with mu held.
func (s *volumes) put(v *volume) {
	if s.byID == nil {
		s.byID = map[string]*volume{}
	}
	s.byID[v.id] = v
}

// restore takes in a volume of a state.
func (s *volumes) restore(v *volume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(v)
}

// find is the volume of an id; nil if it is not known.
func (s *volumes) find(id string) *volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// release ends a volume, and a Fetch of it that still runs. Then revoke ends
// what was issued for it, and returns what it could not. That is kept, and the
// error tells the caller to call again. A volume that is not known has
// nothing to release.
func (s *volumes) release(ctx context.Context, id string, revoke func(*volume) ([]Revocation, error)) error {
	v := s.find(id)
	if v == nil {
		return nil
	}
	v.end()
	if err := v.takeTurn(ctx); err != nil {
		return fault.New(fault.Of(err), "releasing volume %s: a fetch of it still runs: %w", id, err)
	}
	defer v.endTurn()
	left, err := revoke(v)
	s.mu.Lock()
	defer s.mu.Unlock()
	now, ok := s.byID[id]
	switch {
	case err == nil && now == v:
		delete(s.byID, id)
	case err == nil:
	case ok:
		now.add(left) // also where it is the new one of the id
	default:
		v.add(left)
		s.put(v)
	}
	if err != nil {
		return fmt.Errorf("releasing volume %s: %w", id, err)
	}
	return nil
}

// identityState is what a volume has as one identity.
type identityState struct {
	group       *group // nil until it has joined one
	bearer      Bearer
	credentials *credentials
	readings    *cache
	// spec is the class that was last answered in full, without its objects;
	// nil after a restart.
	spec *Spec
}

// refused has nobody given any more what the store has just refused: not a new
// volume of the same identity, which has the shared answers, nor after a restart
// the one that was refused, whose own are kept for its files. That is what was
// asked for, by its id, or everything where it was the login.
func (s identityState) refused(err error, id string, now time.Time) {
	if singleflight.IsOwn(err) {
		id = everything
	}
	s.readings.refuse(id, now)
	s.group.recent.refuse(id, now)
	s.group.recent.dropRefused()
}

// volume is what the engine knows of one volume.
type volume struct {
	id     string
	owner  budget.Owner
	groups *groups
	turn   chan struct{} // one Fetch or Release at a time
	// gone ends with the volume, and with it a Fetch that still runs.
	gone context.Context //nolint:containedctx // the volume's own life
	end  context.CancelFunc
	// doubts are the refusals that may not be the store's last word.
	doubts doubts
	// inFiles are the requests that the files were last made of.
	inFiles map[string]bool

	mu      sync.Mutex
	current identityState
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

func newVolume(id, namespace string, g *groups) *volume {
	gone, end := context.WithCancel(context.Background())
	v := &volume{id: id, owner: budget.Owner{Namespace: namespace, Volume: id}, groups: g, turn: make(chan struct{}, 1), gone: gone, end: end}
	v.current = v.nothing()
	return v
}

func (v *volume) takeTurn(ctx context.Context) error {
	select {
	case v.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fault.Ended(ctx)
	}
}

func (v *volume) endTurn() { <-v.turn }

// nothing is what a volume has as a new identity.
func (v *volume) nothing() identityState {
	return identityState{credentials: newCredentials(v.groups.budget, v.owner), readings: newCache(v.groups.budget, v.owner)}
}

// now is what the volume has as its present identity.
func (v *volume) now() identityState {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.current
}

// owns tells whether credentials are the volume's.
func (v *volume) owns(s *credentials) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return s == v.current.credentials || v.superseded != nil && s == v.superseded.credentials
}

// answered notes that the files were made by a class.
func (v *volume) answered(s *Spec) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current.spec = s.withoutObjects()
}

// retain drops the answers to what neither the class nor the files are of.
func (v *volume) retain(s *Spec, now time.Time) {
	wanted := s.ids()
	for id := range v.inFiles {
		wanted[id] = true
	}
	state := v.now()
	state.credentials.retain(wanted, now)
	state.readings.retain(wanted)
}

// prune forgets the revocations of what has expired.
func (v *volume) prune(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.revocations = slices.DeleteFunc(v.revocations, func(r Revocation) bool { return !r.alive(now) })
}

// add adds to what has to be revoked with the volume.
func (v *volume) add(list []Revocation) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.revocations = append(v.revocations, list...)
}

// take gives up all that has to be revoked with the volume alone.
func (v *volume) take() []Revocation {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := append(v.current.credentials.take(), v.revocations...)
	if v.superseded != nil {
		list = append(list, v.superseded.credentials.take()...)
	}
	v.revocations = nil
	return list
}

// enter makes the volume a member of an identity's group.
func (v *volume) enter(key Identity, b Bearer) {
	old := v.now()
	var left []Revocation
	switch {
	case old.group == nil:
	case old.bearer.Pod != b.Pod:
		v.endSuperseded()
		left = append(old.credentials.take(), v.groups.leave(old.group, v.id)...)
		v.forget()
	case old.group.key == key:
	case old.group.key.sameBut(key):
		// Another view of the same identity, as after the first login with a
		// pod-bound role, does not touch what the volume has by itself.
		left = v.groups.leave(old.group, v.id)
	default:
		v.changeIdentity(key)
		if now := v.now().group; now != nil && now.key != key {
			left = v.groups.leave(now, v.id)
		}
	}
	v.add(left) // to be revoked with the volume
	g := v.groups.join(key, v.id)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current.group, v.current.bearer = g, b
}

// forget gives up the volume's identity. What was leased under it stays valid
// until it ends or the volume is released, because the files still hold it.
func (v *volume) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current.readings.close()
	v.current = v.nothing()
}

// changeIdentity has the volume go on under another identity of its pod: the
// superseded one, or a new one. What it had under an identity that was never
// answered is given up.
func (v *volume) changeIdentity(key Identity) {
	v.mu.Lock()
	now := v.current
	over := &now
	switch s := v.superseded; {
	case s == nil:
		v.superseded, over = &now, nil
		v.current = v.nothing()
	case s.group.key.sameBut(key):
		v.superseded = nil
		v.current = *s
	default:
		v.current = v.nothing()
	}
	v.mu.Unlock()
	v.giveUp(over)
}

// giveUp has what the volume had under one identity revoked with the volume, as
// programs may still use it.
func (v *volume) giveUp(s *identityState) {
	if s == nil {
		return
	}
	s.readings.close()
	v.add(s.credentials.take())
	if s.group != v.now().group {
		v.add(v.groups.leave(s.group, v.id))
	}
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

// endSuperseded ends the earlier identity: the files are of the new one now.
func (v *volume) endSuperseded() { v.giveUp(v.takeSuperseded()) }

// await notes that something is being issued for the volume, and that nobody
// waits for it.
func (v *volume) await(ended <-chan struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.issuing = append(slices.DeleteFunc(v.issuing, isClosed), ended)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// issued waits until nothing is being issued for the volume any longer.
func (v *volume) issued(ctx context.Context) error {
	v.mu.Lock()
	issuing := slices.Clone(v.issuing)
	v.mu.Unlock()
	for _, c := range issuing {
		select {
		case <-c:
		case <-ctx.Done():
			return fault.New(fault.Timeout, "the store still works on a credential for the volume, which is revoked once it is there: %w", fault.Ended(ctx))
		}
	}
	return nil
}
