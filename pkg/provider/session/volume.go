package session

import (
	"context"
	"fmt"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// Life is whose turn it is to work on a volume, and the volume's end.
// Providers embed it in what they know of a volume.
type Life struct {
	turn chan struct{} // one Fetch or Release at a time
	// gone ends with the volume, and with it a Fetch that still runs.
	gone context.Context //nolint:containedctx // the volume's own life
	end  context.CancelFunc
}

// NewLife begins one.
func NewLife() Life {
	gone, end := context.WithCancel(context.Background())
	return Life{turn: make(chan struct{}, 1), gone: gone, end: end}
}

func (l *Life) life() *Life { return l }

var errReleased = fault.New(fault.Canceled, "the volume is going away")

func (l *Life) enter(ctx context.Context) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return Ended(ctx)
	}
}

func (l *Life) leave() { <-l.turn }

// untilGone is a context that also ends when the volume is released.
func (l *Life) untilGone(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(l.gone, func() { cancel(errReleased) })
	return ctx, func() { stop(); cancel(nil) }
}

// Volume is what a provider knows of one volume. It embeds Life, and owes D:
// what has to be ended with it.
type Volume[D any] interface {
	comparable
	life() *Life
	// Owe adds to what has to be ended with the volume.
	Owe(debts []D)
	// TakeDebts gives up all that has to be ended with the volume alone.
	TakeDebts() []D
}

// Volumes holds a provider's volumes by id. The zero value is ready for use.
type Volumes[V Volume[D], D any] struct {
	mu   sync.Mutex
	byID map[string]V
}

// Enter finds the volume, or begins it, and waits for its turn, which is over
// with leave. The work on it is to be done with the context that comes along,
// since that also ends with the volume.
func (s *Volumes[V, D]) Enter(ctx context.Context, id string, begin func(id string) V) (v V, work context.Context, leave func(), err error) {
	v = s.get(id, begin)
	l := v.life()
	if err := l.enter(ctx); err != nil {
		return v, nil, nil, err
	}
	if l.gone.Err() != nil {
		l.leave()
		return v, nil, nil, errReleased
	}
	work, done := l.untilGone(ctx)
	return v, work, func() { done(); l.leave() }, nil
}

// get hands what a released volume still owes to the new one of its id.
func (s *Volumes[V, D]) get(id string, begin func(id string) V) V {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.byID[id]
	if known && old.life().gone.Err() == nil {
		return old
	}
	v := begin(id)
	if known {
		v.Owe(old.TakeDebts())
	}
	s.put(id, v)
	return v
}

// Find is the volume of an id; the zero value if it is not known.
func (s *Volumes[V, D]) Find(id string) V {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// Put takes in a volume that was restored.
func (s *Volumes[V, D]) Put(id string, v V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(id, v)
}

func (s *Volumes[V, D]) put(id string, v V) {
	if s.byID == nil {
		s.byID = map[string]V{}
	}
	s.byID[id] = v
}

// Release ends a volume, and a Fetch of it that still runs. Then settle ends
// what was made for it, and returns what it could not. That is owed on, and
// the error tells the caller to call again. A volume that is not known has
// nothing to release. none tells that this was the last volume.
func (s *Volumes[V, D]) Release(ctx context.Context, id string, settle func(V) ([]D, error)) (none bool, err error) {
	var unknown V
	v := s.Find(id)
	if v == unknown {
		return false, nil
	}
	l := v.life()
	l.end()
	if err := l.enter(ctx); err != nil {
		return false, fault.New(fault.Of(err), "releasing volume %s: a fetch of it still runs: %w", id, err)
	}
	defer l.leave()
	if left, err := settle(v); err != nil {
		s.oweOn(id, v, left)
		return false, fmt.Errorf("releasing volume %s: %w", id, err)
	}
	return s.remove(id, v) == 0, nil
}

// oweOn keeps what could not be ended with the volume, or with the new one of
// its id.
func (s *Volumes[V, D]) oweOn(id string, v V, left []D) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now, ok := s.byID[id]; ok {
		v = now
	} else {
		s.put(id, v)
	}
	v.Owe(left)
}

// remove takes out v, unless another took its place, and returns how many
// volumes are left.
func (s *Volumes[V, D]) remove(id string, v V) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID[id] == v {
		delete(s.byID, id)
	}
	return len(s.byID)
}
