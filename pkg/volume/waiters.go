package volume

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/backoff"
	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// waiters are the volumes whose store was not asked at their last refresh, because it
// failed moments before. When a store returns, all of them are due: those of another store
// find out that it is still not asked, and wait again.
type waiters struct {
	hasten func(id string) // makes a live volume due within a second

	mu      sync.Mutex
	waiting map[string]struct{} // by the volumes' ids
	returns int                 // so far
}

// remove ends the waiting of a volume. It returns how often stores have returned so far.
func (w *waiters) remove(id string) (returns int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waiting, id)
	return w.returns
}

// add makes a volume wait if its refresh failed because the store was not asked. returns is
// the result of remove before the refresh: if a store has returned since, the volume does
// not wait. The volume is scheduled already.
func (w *waiters) add(id string, err error, returns int) {
	if !fault.NotAsked(err) {
		return
	}
	w.mu.Lock()
	late := w.returns != returns
	if !late {
		w.waiting[id] = struct{}{}
	}
	w.mu.Unlock()
	if late {
		w.hasten(id)
	}
}

// run makes the waiting volumes due after each return of a store, until ctx ends. It does
// so once in eventSpread at most, because a store that is over its limit answers one
// request and refuses the next.
func (w *waiters) run(ctx context.Context, returned <-chan struct{}) error {
	for {
		select {
		case <-returned:
			for _, id := range w.end() {
				w.hasten(id)
			}
		case <-ctx.Done():
			return nil
		}
		if backoff.Sleep(ctx, eventSpread) != nil {
			return nil
		}
	}
}

// end ends the waiting of all volumes, and returns their ids.
func (w *waiters) end() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.returns++
	ids := slices.Collect(maps.Keys(w.waiting))
	clear(w.waiting)
	return ids
}
