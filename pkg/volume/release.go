package volume

import (
	"context"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider"
)

const (
	releaseWorkers = 2
	// releaseTries bounds how often the end of a gone volume's credentials is
	// asked for. With the doubling pause it is about two hours; whatever
	// still lives then ends by its own time to live.
	releaseTries   = 20
	longestRelease = 10 * time.Minute
)

// releaser ends the credentials of volumes that are gone, in the background
// and again after a failure. The record stays until then, so that a restart
// goes on with it.
type releaser struct {
	c     *Config
	queue *Scheduler

	mu      sync.Mutex
	pending map[string]*release
}

type release struct {
	rec   *Record
	tries int
	began time.Time
	trail provider.Trail
	busy  chan struct{} // closed when the running attempt has ended; nil if none runs
}

func newReleaser(c *Config) *releaser {
	return &releaser{c: c, queue: NewScheduler(), pending: map[string]*release{}}
}

// add takes over a volume that is gone.
func (r *releaser) add(rec *Record) {
	r.mu.Lock()
	r.pending[rec.ID] = &release{rec: rec, began: time.Now()}
	r.mu.Unlock()
	r.queue.Set(rec.ID, time.Now())
}

func (r *releaser) run(ctx context.Context) error {
	return r.queue.Run(ctx, releaseWorkers, r.attempt)
}

// settle ends what is left of an earlier volume of the same id before a new
// one begins, so that the end of the old cannot hit the new. It tries once
// and bounded: the new volume does not wait for a store that is down.
func (r *releaser) settle(ctx context.Context, id string) {
	r.mu.Lock()
	job, ok := r.pending[id]
	var busy chan struct{}
	if ok {
		busy = job.busy
	}
	r.mu.Unlock()
	if !ok {
		return
	}
	r.queue.Remove(id)
	if busy != nil {
		select {
		case <-busy:
		case <-ctx.Done():
		}
	} else {
		r.attempt(ctx, id)
	}
	r.queue.Remove(id)
	r.mu.Lock()
	delete(r.pending, id)
	r.mu.Unlock()
}

func (r *releaser) attempt(ctx context.Context, id string) {
	r.mu.Lock()
	job, ok := r.pending[id]
	if !ok || job.busy != nil {
		r.mu.Unlock()
		return
	}
	job.tries++
	job.busy = make(chan struct{})
	r.mu.Unlock()

	err := r.release(provider.WithTrail(ctx, &job.trail), job.rec)

	r.mu.Lock()
	defer r.mu.Unlock()
	close(job.busy)
	job.busy = nil
	if ctx.Err() != nil { // the driver stops: the record stays for the next one
		return
	}
	if err != nil && job.tries < releaseTries {
		pause := min(firstRetry<<min(job.tries-1, 16), longestRelease)
		r.queue.Set(id, time.Now().Add(pause-time.Duration(float64(pause)*chance()/2)))
		return
	}
	r.finish(job, err)
}

// finish forgets the volume for good. The caller holds the mutex.
func (r *releaser) finish(job *release, err error) {
	delete(r.pending, job.rec.ID)
	if derr := r.c.Store.Delete(job.rec.ID); derr != nil {
		r.c.Logger.Error("forgetting a volume", "volume", job.rec.ID, "error", derr)
	}
	o := outcomeOf(Released, job.rec, job.began, err)
	o.Asked, o.NextAt, o.Versions = job.trail.IDs(), time.Time{}, nil
	r.c.Observer.Observe(o)
	if err != nil {
		r.c.Logger.Error("giving up on ending a volume's credentials; they end by their own time to live",
			"volume", job.rec.ID, "pod", job.rec.Pod.String(), "tries", job.tries, "error", err)
	}
}

func (r *releaser) release(ctx context.Context, rec *Record) error {
	if rec.Provider == "" {
		return nil
	}
	source, err := r.c.Providers.Get(rec.Provider)
	if err != nil {
		return nil // the provider is no longer on this node, and with it what it held
	}
	rel, ok := source.(provider.Releaser)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.c.ReleaseTimeout)
	defer cancel()
	return rel.Release(ctx, rec.ID)
}
