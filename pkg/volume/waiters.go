package volume

import (
	"context"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/backoff"
	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// waiters are the volumes whose store was not asked at their last refresh, because it
// failed moments before. When a store returns, all of them are due: those of another store
// find out that it is still not asked, and wait again. The zero value is ready for use.
type waiters struct {
	mu      sync.Mutex
	volumes map[*Volume]struct{}
	returns int // so far
}

// remove ends the waiting of a volume. It returns how often stores have returned so far.
func (w *waiters) remove(v *Volume) (returns int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.volumes, v)
	return w.returns
}

// add makes a volume wait if its refresh failed because the store was not asked. returns is
// the result of remove before the refresh: if a store has returned since, the volume does
// not wait. The volume is scheduled already.
func (w *waiters) add(v *Volume, err error, returns int) {
	if !fault.NotAsked(err) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.returns != returns {
		v.hasten(eventDue())
		return
	}
	if w.volumes == nil {
		w.volumes = map[*Volume]struct{}{}
	}
	w.volumes[v] = struct{}{}
}

// run makes the waiting volumes due after each return of a store, until ctx ends. It does
// so once in eventSpread at most, because a store that is over its limit answers one
// request and refuses the next.
func (w *waiters) run(ctx context.Context, returned <-chan struct{}) error {
	for {
		select {
		case <-returned:
			w.end()
		case <-ctx.Done():
			return nil
		}
		if backoff.Sleep(ctx, eventSpread) != nil {
			return nil
		}
	}
}

func (w *waiters) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.returns++
	for v := range w.volumes {
		v.hasten(eventDue())
	}
	clear(w.volumes)
}
