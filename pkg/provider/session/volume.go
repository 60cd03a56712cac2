package session

import (
	"context"
	"fmt"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// Volume is what the engine knows of one volume. R is what has to be revoked
// with it.
type Volume[R any] interface {
	// Add adds to what has to be revoked with the volume.
	Add(list []R)
	// Take gives up all that has to be revoked with the volume alone.
	Take() []R
}

// Volumes holds the volumes of this node by id. The zero value is ready for use.
type Volumes[V Volume[R], R any] struct {
	mu   sync.Mutex
	byID map[string]*life[V]
}

// life is whose turn it is to work on a volume, and the volume's end.
type life[V any] struct {
	volume V
	turn   chan struct{} // one Fetch or Release at a time
	// gone ends with the volume, and with it a Fetch that still runs.
	gone context.Context //nolint:containedctx // the volume's own life
	end  context.CancelFunc
}

var errReleased = fault.New(fault.Canceled, "the volume is going away")

func (l *life[V]) enter(ctx context.Context) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fault.Ended(ctx)
	}
}

func (l *life[V]) leave() { <-l.turn }

// untilGone is a context that also ends when the volume is released.
func (l *life[V]) untilGone(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.gone, func() { cancel(errReleased) })
	return ctx, func() { stop(); cancel(nil) }
}

// Enter finds the volume, or begins it, and waits for its turn, which is over
// with leave. The work on it is to be done with the context that comes along,
// since that also ends with the volume.
func (s *Volumes[V, R]) Enter(ctx context.Context, id string, begin func(id string) V) (v V, work context.Context, leave func(), err error) {
	l := s.get(id, begin)
	if err := l.enter(ctx); err != nil {
		return v, nil, nil, err
	}
	if l.gone.Err() != nil {
		l.leave()
		return v, nil, nil, errReleased
	}
	work, done := l.untilGone(ctx)
	return l.volume, work, func() { done(); l.leave() }, nil
}

// get hands what is still to be revoked of a released volume to the new one of
// its id.
func (s *Volumes[V, R]) get(id string, begin func(id string) V) *life[V] {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.byID[id]
	if known && old.gone.Err() == nil {
		return old
	}
	v := begin(id)
	if known {
		v.Add(old.volume.Take())
	}
	return s.put(id, v)
}

// put begins a volume's life. The caller holds mu.
func (s *Volumes[V, R]) put(id string, v V) *life[V] {
	if s.byID == nil {
		s.byID = map[string]*life[V]{}
	}
	gone, end := context.WithCancel(context.Background())
	l := &life[V]{volume: v, turn: make(chan struct{}, 1), gone: gone, end: end}
	s.byID[id] = l
	return l
}

// Put takes in a volume that was restored.
func (s *Volumes[V, R]) Put(id string, v V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(id, v)
}

// Find is the volume of an id; the zero value if it is not known.
func (s *Volumes[V, R]) Find(id string) (v V) {
	if l := s.find(id); l != nil {
		return l.volume
	}
	return v
}

func (s *Volumes[V, R]) find(id string) *life[V] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// Release ends a volume, and a Fetch of it that still runs. Then revoke ends
// what was issued for it, and returns what it could not. That is kept, and the
// error tells the caller to call again. A volume that is not known has
// nothing to release.
func (s *Volumes[V, R]) Release(ctx context.Context, id string, revoke func(V) ([]R, error)) error {
	l := s.find(id)
	if l == nil {
		return nil
	}
	l.end()
	if err := l.enter(ctx); err != nil {
		return fault.New(fault.Of(err), "releasing volume %s: a fetch of it still runs: %w", id, err)
	}
	defer l.leave()
	if left, err := revoke(l.volume); err != nil {
		s.keep(id, l, left)
		return fmt.Errorf("releasing volume %s: %w", id, err)
	}
	s.remove(id, l)
	return nil
}

// keep keeps what could not be revoked with the volume, or with the new one of
// its id.
func (s *Volumes[V, R]) keep(id string, l *life[V], left []R) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, ok := s.byID[id]; ok {
		l = now
	} else {
		s.byID[id] = l
	}
	l.volume.Add(left)
}

// remove takes out a volume, unless another took its place.
func (s *Volumes[V, R]) remove(id string, l *life[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[id] == l {
		delete(s.byID, id)
	}
}
