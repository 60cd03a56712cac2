package volume

import (
	"context"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/backoff"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
)

// waiters are the volumes whose store was not asked at their last refresh, because it
// failed moments before. When a store returns, all of them are due: those of another store
// find out that it is still not asked, and wait again.
type waiters struct {
	scheduler *schedule.Scheduler

	mu      sync.Mutex
	volumes map[string]schedule.Where // by id
	returns int                       // so far
}

// remove ends the waiting of a volume. It returns how often stores have returned so far.
func (w *waiters) remove(id string) (returns int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.volumes, id)
	return w.returns
}

// add makes a volume wait if its refresh failed because the store was not asked. returns is
// the result of remove before the refresh: if a store has returned since, the volume does
// not wait. The volume is scheduled already.
func (w *waiters) add(id string, where schedule.Where, err error, returns int) {
	if !fault.NotAsked(err) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.returns != returns {
		w.hasten(id, where)
		return
	}
	if w.volumes == nil {
		w.volumes = map[string]schedule.Where{}
	}
	w.volumes[id] = where
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
	for id, where := range w.volumes {
		w.hasten(id, where)
	}
	clear(w.volumes)
}

func (w *waiters) hasten(id string, where schedule.Where) {
	w.scheduler.Hasten(id, where, time.Now().Add(time.Duration(float64(eventSpread)*chance())))
}
