package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/backoff"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

const (
	releaseWorkers = 2 // for each store, and one more for each namespace
	// releaseTries bounds how often the end of credentials is asked for that
	// nobody needs any longer. With the doubling pause it is about two hours;
	// whatever still lives then ends by its own time to live.
	releaseTries   = 20
	longestRelease = 10 * time.Minute
)

// releaser ends the credentials of volumes that are gone, and those that a
// live volume had from a provider before its class was edited, in the
// background and again after a failure. The record has them until then, so
// that a restart goes on with it.
type releaser struct {
	c     *Config
	queue *Scheduler
	// ended is told of providers that hold nothing more for a live volume.
	ended func(volume string, providers []string)

	mu      sync.Mutex
	pending map[string]*release
}

// release is what is to be ended of one volume.
type release struct {
	rec *Record
	// live volumes go on; only what is in left is ended.
	live bool
	// left are the providers that are still to be asked. While an attempt
	// runs they are its own.
	left  []string
	tries int
	began time.Time
	trail provider.Trail
	busy  chan struct{} // closed when the running attempt has ended; nil if none runs
	after chan struct{} // the like of an earlier job, which must end first; may be nil
}

// where is where the end of the credentials goes: to the store of the provider
// that is asked next.
func (r *releaser) where(j *release) Where {
	name := ""
	if len(j.left) > 0 {
		name = j.left[0]
	}
	return r.c.where(j.rec, name)
}

func newReleaser(c *Config) *releaser {
	return &releaser{c: c, queue: NewScheduler(), pending: map[string]*release{}, ended: func(string, []string) {}}
}

// add takes over a volume that is gone.
func (r *releaser) add(rec *Record) { r.put(&release{rec: rec}, rec.held()) }

// addFormer ends what a live volume's former providers hold. The caller holds
// the volume's lock.
func (r *releaser) addFormer(rec *Record) {
	if len(rec.Former) == 0 || r.hasFormer(rec) {
		return
	}
	copied := *rec
	r.put(&release{rec: &copied, live: true}, rec.Former)
}

// hasFormer tells whether that very work is under way, with its own pauses.
func (r *releaser) hasFormer(rec *Record) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	job := r.pending[rec.ID]
	return job != nil && job.live && slices.EqualFunc(job.rec.Former, rec.Former, func(a, b Held) bool { return a.Provider == b.Provider })
}

func (r *releaser) put(job *release, held []Held) {
	job.began = time.Now()
	for _, h := range held {
		job.left = append(job.left, h.Provider)
	}
	id := job.rec.ID
	r.mu.Lock()
	if old := r.pending[id]; old != nil {
		if job.after = old.busy; job.after == nil {
			job.after = old.after
		}
	}
	r.pending[id] = job
	r.mu.Unlock()
	r.queue.Set(id, r.where(job), time.Now())
}

// limit bounds one attempt, for a volume with a former provider or two.
func (r *releaser) limit() time.Duration { return 3 * r.c.ReleaseTimeout }

func (r *releaser) run(ctx context.Context) error {
	return r.queue.Run(ctx, Work{Workers: releaseWorkers, Limit: r.limit(), Do: r.attempt, Late: func(id string) {
		r.c.Logger.Warn("the end of a volume's credentials does not end, so its worker goes on with other volumes", "volume", id)
	}})
}

// settle ends what is left of an earlier volume of the same id before a new
// one begins, so that the end of the old cannot hit the new. It tries once
// and bounded: the new volume does not wait for a store that is down. What
// could not be ended it gives back.
func (r *releaser) settle(ctx context.Context, id string) []Held {
	r.mu.Lock()
	job, ok := r.pending[id]
	var busy chan struct{}
	if ok {
		busy = job.busy
	}
	r.mu.Unlock()
	if !ok {
		return nil
	}
	r.queue.Remove(id)
	if busy != nil {
		wait, cancel := context.WithTimeout(ctx, r.limit())
		defer cancel()
		select {
		case <-busy:
		case <-wait.Done():
		}
	} else {
		r.attempt(ctx, id)
	}
	r.queue.Remove(id)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[id] != job {
		return nil // it is done
	}
	delete(r.pending, id)
	held := slices.Clone(job.rec.held())
	if job.busy != nil {
		return held
	}
	return slices.DeleteFunc(held, func(h Held) bool { return !slices.Contains(job.left, h.Provider) })
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

	ctx, cancel := context.WithTimeout(ctx, r.limit())
	defer cancel()
	ctx, span := r.c.Tracer.Begin(ctx, string(Released), workOf(job.rec))
	err := r.release(provider.WithTrail(ctx, &job.trail), job)
	span.Result(trace.Result{Provider: job.rec.Provider, Asked: job.trail.IDs()})
	span.End(err)
	where := r.where(job)

	defer fault.Recover(&err, r.c.Logger, "releasing volume "+id)
	r.mu.Lock()
	defer r.mu.Unlock()
	close(job.busy)
	job.busy = nil
	if errors.Is(ctx.Err(), context.Canceled) || r.pending[id] != job {
		return // the driver stops, and the next one has the record; or a newer job has it
	}
	if err != nil && job.tries < releaseTries {
		next := time.Now().Add(backoff.Delay(firstRetry, longestRelease, job.tries-1, chance()))
		r.queue.Set(id, where, next)
		r.logRetry(job, err, next)
		r.observeRetry(job, err, next)
		return
	}
	r.finish(job, err)
}

// logRetry says once that the end of credentials has to wait.
func (r *releaser) logRetry(job *release, err error, next time.Time) {
	log := r.c.Logger.Debug
	if job.tries == 1 {
		log = r.c.Logger.Warn
	}
	log("ending a volume's credentials failed, and is tried again",
		"volume", job.rec.ID, "pod", job.rec.Pod.String(), "tries", job.tries, "error", err, "retryAt", next)
}

// observeRetry tells of credentials whose end has to wait.
func (r *releaser) observeRetry(job *release, err error, next time.Time) {
	o := outcomeOf(ReleaseFailed, job.rec, job.began, err)
	o.Asked, o.NextAt, o.Versions, o.Failures, o.Repeated = job.trail.IDs(), next, nil, job.tries, job.tries > 1
	r.c.Observer.Observe(o)
}

// finish forgets the job, and the volume if it is gone. The caller holds the
// mutex, so that nobody begins with the volume anew in between.
func (r *releaser) finish(job *release, err error) {
	id := job.rec.ID
	delete(r.pending, id)
	names := []string{job.rec.Provider}
	if job.live {
		names = nil
		for _, h := range job.rec.Former {
			names = append(names, h.Provider)
		}
		r.ended(id, names)
	} else if derr := r.c.Store.Delete(id); derr != nil {
		r.c.Logger.Error("forgetting a volume", "volume", id, "error", derr)
	}
	for _, name := range names {
		o := outcomeOf(Released, job.rec, job.began, err)
		o.Provider, o.Asked, o.NextAt, o.Versions = name, job.trail.IDs(), time.Time{}, nil
		r.c.Observer.Observe(o)
	}
	if err != nil {
		r.c.Logger.Error("giving up on ending a volume's credentials; they end by their own time to live",
			"volume", id, "pod", job.rec.Pod.String(), "tries", job.tries, "error", err)
	}
}

// release asks every provider that may still hold something.
func (r *releaser) release(ctx context.Context, job *release) error {
	if job.after != nil {
		select {
		case <-job.after:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	var failed []string
	var errs []error
	for _, name := range job.left {
		if err := r.ask(ctx, name, job.rec.ID); err != nil {
			failed, errs = append(failed, name), append(errs, fmt.Errorf("provider %s: %w", name, err))
		}
	}
	job.left = failed
	return errors.Join(errs...)
}

func (r *releaser) ask(ctx context.Context, name, id string) (err error) {
	defer fault.Recover(&err, r.c.Logger, "releasing volume "+id, "provider", name)
	source, err := r.c.Providers.Get(name)
	if err != nil {
		return nil // the provider is no longer on this node, and with it what it held
	}
	rel, ok := source.(provider.Releaser)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.c.ReleaseTimeout)
	defer cancel()
	return rel.Release(ctx, id)
}
