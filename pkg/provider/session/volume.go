package session

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/bounded"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session/cache"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
)

var errReleased = fault.New(fault.Canceled, "the volume is going away")

// volumes has the volumes of this node.
type volumes struct {
	mu   sync.Mutex
	byID map[string]*volume
}

// enter finds the volume, or makes it with begin, and waits for its turn, which ends with
// leave. The caller must use the returned context, which ends with the volume too.
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

// get finds or makes a volume. A new volume gets the pending revocations of a released
// one with the same id, whose release may still wait.
func (s *volumes) get(id string, begin func() *volume) *volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.byID[id]
	if known && old.gone.Err() == nil {
		return old
	}
	v := begin()
	if known {
		v.add(old.finish())
	}
	s.byID[id] = v
	return v
}

// restore adds a volume from a saved state.
func (s *volumes) restore(v *volume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[v.id] = v
}

// find returns the volume with an id; nil for none.
func (s *volumes) find(id string) *volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// release ends a volume, and cancels its Fetch. Then it calls revoke, which returns what
// it could not revoke; release keeps that and returns an error, so that the caller tries
// again. release succeeds for an unknown volume.
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
		now.add(left) // which may be a new volume with the id
	default:
		v.add(left)
		s.byID[id] = v
	}
	if err != nil {
		return fmt.Errorf("releasing volume %s: %w", id, err)
	}
	return nil
}

// identityState has a volume's credentials and answers under one identity.
type identityState struct {
	group       *group // nil before the volume joins one
	bearer      Bearer
	credentials *credentials
	readings    *cache.Cache[*Reading]
	// spec is the class of the last complete payload, without its objects; nil after a
	// restart.
	spec *Spec
}

// refused records that the store has refused the request with an id, or everything if it
// was the login. Earlier answers are then given to no other volume of the identity, and
// after a restart not to this one, which keeps them for its files only.
func (s identityState) refused(err error, id string, now time.Time) {
	if singleflight.IsOwn(err) {
		id = cache.Everything
	}
	s.readings.Refuse(id, now)
	s.group.recent.Refuse(id, now)
	s.group.recent.DropRefused()
}

// volume is what the engine knows of one volume.
type volume struct {
	id     string
	owner  budget.Owner
	groups *groups
	turn   chan struct{} // one Fetch or Release at a time
	// gone ends with the volume, and cancels its Fetch.
	gone context.Context //nolint:containedctx // the volume's own life
	end  context.CancelFunc
	// doubts has the refusals that are not certain yet: the time of the first one, by the id
	// of the request.
	doubts bounded.Map[string, time.Time]
	// detached has the issues that continue without a caller.
	detached detached
	// inFiles has the requests whose answers are in the files.
	inFiles map[string]bool

	mu      sync.Mutex
	current identityState
	// superseded is the state of the identity before an edit of the class, until the
	// first answer to the new one; nil for none. If the store refuses the edit, and
	// the edit is reverted, the volume still has its credentials.
	superseded *identityState
	// revocations are of earlier identities and logins.
	revocations []Revocation
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

// nothing returns the state of a new identity.
func (v *volume) nothing() identityState {
	return identityState{credentials: newCredentials(v.groups.budget, v.owner), readings: cache.New[*Reading](v.groups.budget, v.owner)}
}

// now returns the state of the current identity.
func (v *volume) now() identityState {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.current
}

// owns reports whether the credentials are the volume's.
func (v *volume) owns(s *credentials) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return s == v.current.credentials || v.superseded != nil && s == v.superseded.credentials
}

// answered records the class that made the files.
func (v *volume) answered(s *Spec) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current.spec = s.withoutObjects()
}

// retain drops answers and credentials that neither the class nor the files need.
func (v *volume) retain(s *Spec) {
	wanted := s.ids()
	for id := range v.inFiles {
		wanted[id] = true
	}
	state := v.now()
	state.credentials.retain(wanted)
	state.readings.Retain(wanted)
}

// prune drops revocations of what has expired, the volume's and its group's.
func (v *volume) prune(now time.Time) {
	state := v.now()
	state.credentials.prune(now)
	state.group.credentials.prune(now)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.revocations = slices.DeleteFunc(v.revocations, func(r Revocation) bool { return !r.alive(now) })
}

// add adds revocations.
func (v *volume) add(list []Revocation) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.revocations = append(v.revocations, list...)
}

// takeIdle removes and returns the oldest tokens without leases that are to be revoked, if
// they are too many.
func (v *volume) takeIdle(l Login) (tokens []*Token) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var idle []Revocation
	v.revocations, idle = splitIdle(v.revocations, l, func(r Revocation) *Token { return r.Token })
	for _, r := range idle {
		tokens = append(tokens, r.Token)
	}
	return tokens
}

// take removes and returns everything that must be revoked with this volume.
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

// finish ends the volume's identities. It returns everything that must be revoked with the
// volume, and with a group whose last member it was.
func (v *volume) finish() []Revocation {
	list := v.take()
	for _, s := range []*identityState{new(v.now()), v.takeSuperseded()} {
		if s != nil {
			s.readings.Close()
			list = append(list, v.groups.leave(s.group, v.id)...)
		}
	}
	return list
}

// enter makes the volume a member of the identity's group.
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
		// Only the key of the identity has changed, as after the first login with
		// a pod-bound role: the volume keeps its credentials.
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

// forget drops the volume's identity. Its leases stay valid until they expire or the
// volume is released, because the files still have them.
func (v *volume) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.current.readings.Close()
	v.current = v.nothing()
}

// changeIdentity changes the identity of the volume to another one of its pod: the
// superseded one, or a new one. It drops the state of an identity that never got an
// answer.
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

// giveUp drops the state of an identity. Its credentials are revoked with the volume,
// because programs may still use them.
func (v *volume) giveUp(s *identityState) {
	if s == nil {
		return
	}
	s.readings.Close()
	v.add(s.credentials.take())
	if s.group != v.now().group {
		v.add(v.groups.leave(s.group, v.id))
	}
}

// takeSuperseded removes and returns the superseded state; nil for none.
func (v *volume) takeSuperseded() *identityState {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.superseded
	v.superseded = nil
	return s
}

// endSuperseded drops the superseded identity, after the files are of the new one.
func (v *volume) endSuperseded() { v.giveUp(v.takeSuperseded()) }

// detached has a channel for each issue of a volume that continues without a caller. The
// channel is closed at its end. The zero value has none.
type detached struct {
	mu      sync.Mutex
	running []<-chan struct{}
}

func (d *detached) add(ended <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = append(slices.DeleteFunc(d.running, isClosed), ended)
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// wait waits for the end of all issues.
func (d *detached) wait(ctx context.Context) error {
	d.mu.Lock()
	running := slices.Clone(d.running)
	d.mu.Unlock()
	for _, c := range running {
		select {
		case <-c:
		case <-ctx.Done():
			return fault.New(fault.Timeout, "the store still works on a credential for the volume, which is revoked once it is there: %w", fault.Ended(ctx))
		}
	}
	return nil
}
