package volume

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/backoff"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

const (
	revokeWorkers = 2 // for each store, and one more for each namespace
	// revokeTries bounds how often a revocation is tried. With the doubling pause
	// it is about two hours; credentials that still live then expire by their TTL.
	revokeTries   = 20
	longestRevoke = 10 * time.Minute
)

// revoker ends the credentials of volumes that are gone, in the background and
// again after a failure. The state has a record of each revocation until then, so
// that a restart goes on with it.
//
// A revocation is of a volume id and a provider. A new volume of the same id that
// asks the same provider takes it over: the provider has the credentials by that
// id, and they become the new volume's. If it asks another provider, both go on.
type revoker struct {
	*Config
	queue *schedule.Scheduler

	mu      sync.Mutex
	pending map[string]*revocation // by the record's key
}

// revocation is what is to be ended of one volume at one provider.
type revocation struct {
	rec     *Record
	tries   int
	since   time.Time
	trail   provider.Trail
	running chan struct{} // closed at the end of the attempt under way; nil for none
}

func newRevoker(c *Config) *revoker {
	return &revoker{Config: c, queue: schedule.New(), pending: map[string]*revocation{}}
}

// run works until ctx ends.
func (r *revoker) run(ctx context.Context) error {
	return r.queue.Run(ctx, schedule.Work{Workers: revokeWorkers, Limit: 2 * r.ReleaseTimeout, Do: r.attempt, Late: func(key string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if job := r.pending[key]; job != nil {
			r.Logger.Warn("a revocation does not end, so its worker goes on with other volumes", logkey.Volume, job.rec.ID, logkey.Provider, job.rec.Provider)
		}
	}})
}

// add begins with the revocation for a volume that is gone, and whose record says
// so. One that is known already stays.
func (r *revoker) add(rec *Record) {
	key := rec.Key()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[key] == nil {
		r.pending[key] = &revocation{rec: rec, since: time.Now()}
		r.queue.Set(key, r.whereOf(rec), time.Now())
	}
}

// takeOver calls a revocation off, since the provider is about to be asked for a
// new volume of the same id. It waits for an attempt that runs, and answers
// whether there is still something to be revoked. The record stays until the new
// volume has its own.
func (r *revoker) takeOver(ctx context.Context, rec *Record) (bool, error) {
	key := rec.ForRevocation().Key()
	for {
		r.mu.Lock()
		job := r.pending[key]
		if job == nil || job.running == nil {
			delete(r.pending, key)
			r.mu.Unlock()
			r.queue.Remove(key)
			return job != nil, nil
		}
		running := job.running
		r.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
			return false, fault.New(fault.Of(ctx.Err()), "waiting for the revocation of the credentials that an earlier volume %s had of provider %s: %w", rec.ID, rec.Provider, ctx.Err())
		}
	}
}

// attempt tries one revocation, and sets the time of the next try on failure.
func (r *revoker) attempt(ctx context.Context, key string) {
	r.mu.Lock()
	job := r.pending[key]
	if job == nil || job.running != nil {
		r.mu.Unlock()
		return
	}
	job.tries++
	running := make(chan struct{})
	job.running = running
	r.mu.Unlock()

	work, cancel := context.WithTimeout(ctx, r.ReleaseTimeout)
	defer cancel()
	work, span := r.Tracer.Begin(work, string(Released), workOf(job.rec))
	err := r.release(provider.WithTrail(work, &job.trail), job.rec)
	span.Result(trace.Result{Provider: job.rec.Provider, Asked: job.trail.IDs()})
	span.End(err)
	where := r.whereOf(job.rec)

	defer fault.Recover(&err, r.Logger, "releasing volume "+job.rec.ID)
	r.mu.Lock()
	defer r.mu.Unlock()
	close(running)
	job.running = nil
	switch {
	case errors.Is(ctx.Err(), context.Canceled): // the driver stops, and the next one has the record
	case err != nil && job.tries < revokeTries:
		next := time.Now().Add(backoff.Delay(firstRetry, longestRevoke, job.tries-1, chance()))
		r.queue.Set(key, where, next)
		r.reportRetry(job, err, next)
	default:
		delete(r.pending, key)
		r.reportEnd(job, err)
	}
}

// reportRetry logs the first failure of a revocation, and tells observers of each.
func (r *revoker) reportRetry(job *revocation, err error, next time.Time) {
	log := r.Logger.Debug
	if job.tries == 1 {
		log = r.Logger.Warn
	}
	log("ending a volume's credentials failed, and is tried again",
		logkey.Volume, job.rec.ID, logkey.Pod, job.rec.Pod.String(), logkey.Tries, job.tries, logkey.Error, err, logkey.RetryAt, next)
	o := outcomeOf(ReleaseFailed, job.rec, job.since, err)
	o.Asked, o.NextAt, o.Versions, o.Failures, o.Repeated = job.trail.IDs(), next, nil, job.tries, job.tries > 1
	r.Observer.Observe(o)
}

// reportEnd forgets the record, and tells of the end. err is why it is given up.
func (r *revoker) reportEnd(job *revocation, err error) {
	if derr := r.Store.Delete(job.rec); derr != nil {
		r.Logger.Error("forgetting a volume", logkey.Volume, job.rec.ID, logkey.Error, derr)
	}
	o := outcomeOf(Released, job.rec, job.since, err)
	o.Asked, o.NextAt, o.Versions = job.trail.IDs(), time.Time{}, nil
	r.Observer.Observe(o)
	if err != nil {
		r.Logger.Error("giving up on ending a volume's credentials; they expire by their TTL",
			logkey.Volume, job.rec.ID, logkey.Pod, job.rec.Pod.String(), logkey.Tries, job.tries, logkey.Error, err)
	}
}

// Revocation is the end of a gone volume's credentials that is still to come.
type Revocation struct {
	Identity
	Provider string
	// Tries counts the attempts so far, of Most; NextAt is that of the next.
	Tries, Most int
	Since       time.Time
	NextAt      time.Time
	Running     bool
}

// list gives the revocations in no order.
func (r *revoker) list() []Revocation {
	due := r.queue.Due()
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Revocation, 0, len(r.pending))
	for key, job := range r.pending {
		x := Revocation{Identity: job.rec.Identity, Provider: job.rec.Provider, Tries: job.tries, Most: revokeTries, Since: job.since, Running: job.running != nil}
		if !x.Running {
			x.NextAt = due[key].Next
		}
		all = append(all, x)
	}
	return all
}
