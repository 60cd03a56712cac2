package session

import (
	"context"
	"fmt"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// Volume is what a provider knows of one volume. It owes D: what has to be
// ended with it.
type Volume[D any] interface {
	// Owe adds to what has to be ended with the volume.
	Owe(debts []D)
	// TakeDebts gives up all that has to be ended with the volume alone.
	TakeDebts() []D
}

// Volumes holds a provider's volumes by id. The zero value is ready for use.
type Volumes[V Volume[D], D any] struct {
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
func (s *Volumes[V, D]) Enter(ctx context.Context, id string, begin func(id string) V) (v V, work context.Context, leave func(), err error) {
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

// get hands what a released volume still owes to the new one of its id.
func (s *Volumes[V, D]) get(id string, begin func(id string) V) *life[V] {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.byID[id]
	if known && old.gone.Err() == nil {
		return old
	}
	v := begin(id)
	if known {
		v.Owe(old.volume.TakeDebts())
	}
	return s.put(id, v)
}

// put begins a volume's life. The caller holds mu.
func (s *Volumes[V, D]) put(id string, v V) *life[V] {
	if s.byID == nil {
		s.byID = map[string]*life[V]{}
	}
	gone, end := context.WithCancel(context.Background())
	l := &life[V]{volume: v, turn: make(chan struct{}, 1), gone: gone, end: end}
	s.byID[id] = l
	return l
}

// Put takes in a volume that was restored.
func (s *Volumes[V, D]) Put(id string, v V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(id, v)
}

// Find is the volume of an id; the zero value if it is not known.
func (s *Volumes[V, D]) Find(id string) (v V) {
	if l := s.find(id); l != nil {
		return l.volume
	}
	return v
}

func (s *Volumes[V, D]) find(id string) *life[V] {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// Release ends a volume, and a Fetch of it that still runs. Then settle ends
// what was made for it, and returns what it could not. That is owed on, and
// the error tells the caller to call again. A volume that is not known has
// nothing to release.
func (s *Volumes[V, D]) Release(ctx context.Context, id string, settle func(V) ([]D, error)) error {
	l := s.find(id)
	if l == nil {
		return nil
	}
	l.end()
	if err := l.enter(ctx); err != nil {
		return fault.New(fault.Of(err), "releasing volume %s: a fetch of it still runs: %w", id, err)
	}
	defer l.leave()
	if left, err := settle(l.volume); err != nil {
		s.oweOn(id, l, left)
		return fmt.Errorf("releasing volume %s: %w", id, err)
	}
	s.remove(id, l)
	return nil
}

// oweOn keeps what could not be ended with the volume, or with the new one of
// its id.
func (s *Volumes[V, D]) oweOn(id string, l *life[V], left []D) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, ok := s.byID[id]; ok {
		l = now
	} else {
		s.byID[id] = l
	}
	l.volume.Owe(left)
}

// remove takes out a volume, unless another took its place.
func (s *Volumes[V, D]) remove(id string, l *life[V]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[id] == l {
		delete(s.byID, id)
	}
}
