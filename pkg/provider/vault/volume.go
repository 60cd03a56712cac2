package vault

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
)

// volume is what the provider knows of one volume.
type volume struct {
	id   string
	busy chan struct{} // one Fetch or Release at a time
	// gone ends with the volume, and with it a Fetch that still runs.
	gone context.Context //nolint:containedctx // the volume's own life
	end  context.CancelFunc

	mu       sync.Mutex
	pod      identity.Pod
	group    *group
	holder   *holder
	readings map[string]*reading
	// retired are tokens of earlier logins, which live out their leases.
	retired []*token
}

func newVolume(id string) *volume {
	gone, end := context.WithCancel(context.Background())
	return &volume{
		id: id, busy: make(chan struct{}, 1), gone: gone, end: end,
		holder: newHolder(), readings: map[string]*reading{},
	}
}

var errReleased = fault.New(fault.Canceled, "the volume is going away")

// enter waits for the volume's turn.
func (v *volume) enter(ctx context.Context) error {
	select {
	case v.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return gaveUp(ctx)
	}
}

func (v *volume) leave() { <-v.busy }

// untilGone is a context that also ends when the volume is released.
func (v *volume) untilGone(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(v.gone, func() { cancel(errReleased) })
	return ctx, func() { stop(); cancel(nil) }
}

func (v *volume) currentGroup() *group {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.group
}

func (v *volume) lastReading(id string) *reading {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.readings[id]
}

func (v *volume) keep(id string, rd *reading) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.readings[id] = rd
}

// forget drops the answers to what the class no longer asks.
func (v *volume) forget(s *spec) {
	keep := map[string]bool{}
	for _, r := range s.requests {
		keep[r.id] = true
	}
	v.holder.forget(keep)
	v.mu.Lock()
	defer v.mu.Unlock()
	for id := range v.readings {
		if !keep[id] {
			delete(v.readings, id)
		}
	}
}

// retire gives up the volume's identity for another one. What was leased
// under the old stays valid until it ends or the volume is released, because
// the files still hold it.
func (v *volume) retire() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.retired = append(v.retired, v.holder.takeTokens()...)
	v.group, v.readings = nil, map[string]*reading{}
}

// prune forgets the retired tokens that are over.
func (v *volume) prune(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.retired = slices.DeleteFunc(v.retired, func(t *token) bool { return !t.alive(now) })
}

// takeTokens are all that were logged in for this volume alone.
func (v *volume) takeTokens() []*token {
	v.mu.Lock()
	defer v.mu.Unlock()
	tokens := append(v.holder.takeTokens(), v.retired...)
	v.retired = nil
	return tokens
}

func (v *volume) giveBack(tokens []*token) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.retired = append(v.retired, tokens...)
}

// volumes holds them by id.
type volumes struct {
	mu   sync.Mutex
	byID map[string]*volume
}

// get finds the volume or makes it. One that was released, but not yet of all
// its tokens, hands them to the new one of its id.
func (s *volumes) get(id string) *volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.byID[id]
	if ok && old.gone.Err() == nil {
		return old
	}
	v := newVolume(id)
	if ok {
		v.retired = old.takeTokens()
	}
	s.byID[id] = v
	return v
}

// giveBack keeps what could not be revoked with the volume, or with the new
// one of its id.
func (s *volumes) giveBack(v *volume, tokens []*token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, ok := s.byID[v.id]; ok {
		v = now
	} else {
		s.byID[v.id] = v
	}
	v.giveBack(tokens)
}

func (s *volumes) find(id string) *volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

func (s *volumes) put(v *volume) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[v.id] = v
}

// remove takes out v, unless another took its place. It returns how many
// volumes are left.
func (s *volumes) remove(v *volume) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[v.id] == v {
		delete(s.byID, v.id)
	}
	return len(s.byID)
}

// earliest is the first of the moments that is not zero.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
