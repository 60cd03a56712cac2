package akeyless

import (
	"context"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// volume is what the provider knows of one volume.
type volume struct {
	id   string
	busy chan struct{} // one Fetch or Release at a time
	// gone ends with the volume, and with it a Fetch that still runs.
	gone context.Context //nolint:containedctx // the volume's own life
	end  context.CancelFunc

	holder *holder

	mu       sync.Mutex
	group    *group
	bearer   bearer
	readings map[string]*reading
}

func newVolume(id string) *volume {
	gone, end := context.WithCancel(context.Background())
	return &volume{id: id, busy: make(chan struct{}, 1), gone: gone, end: end, holder: newHolder(), readings: map[string]*reading{}}
}

var errReleased = fault.New(fault.Canceled, "the volume is going away")

// enter waits for the volume's turn.
func (v *volume) enter(ctx context.Context) error {
	select {
	case v.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return session.Ended(ctx)
	}
}

func (v *volume) leave() { <-v.busy }

// untilGone is a context that also ends when the volume is released.
func (v *volume) untilGone(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(v.gone, func() { cancel(errReleased) })
	return ctx, func() { stop(); cancel(nil) }
}

// identity is the volume's group, and who it logs in as.
func (v *volume) identity() (*group, bearer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.group, v.bearer
}

func (v *volume) setIdentity(g *group, b bearer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.group, v.bearer = g, b
}

func (v *volume) last(id string) *reading {
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
func (v *volume) forget(keep map[string]bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id := range v.readings {
		if !keep[id] {
			delete(v.readings, id)
		}
	}
}

// volumes holds them by id.
type volumes struct {
	mu   sync.Mutex
	byID map[string]*volume
}

// get finds the volume or makes it. One that was released, but could not be
// freed of all its credentials yet, hands them to the new one of its id.
func (s *volumes) get(id string) *volume {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.byID[id]
	if old != nil && old.gone.Err() == nil {
		return old
	}
	v := newVolume(id)
	if old != nil {
		v.holder.giveBack(old.holder.takeAll())
	}
	s.byID[id] = v
	return v
}

// giveBack keeps what could not be ended with the volume, or with the new one
// of its id.
func (s *volumes) giveBack(v *volume, list []*minted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, ok := s.byID[v.id]; ok {
		v = now
	} else {
		s.byID[v.id] = v
	}
	v.holder.giveBack(list)
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

// remove takes out v, unless another took its place, and returns how many
// volumes are left.
func (s *volumes) remove(v *volume) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[v.id] == v {
		delete(s.byID, v.id)
	}
	return len(s.byID)
}
