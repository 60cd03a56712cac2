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
	// revokeTries bounds the attempts of a revocation, which take about two hours with
	// the doubling pause. Credentials that are not revoked then expire by their TTL.
	revokeTries   = 20
	longestRevoke = 10 * time.Minute
)

// revoker revokes the credentials of gone volumes in the background, and tries again
// after a failure. Each revocation has a record until it ends, so that the next
// process continues with it.
//
// A revocation has a volume id and a provider. A new volume with the same id that asks
// the same provider takes the revocation over: the provider knows the credentials by
// that id, so they become the new volume's. If it asks another provider, both continue.
type revoker struct {
	*Config
	queue *schedule.Scheduler

	mu      sync.Mutex
	pending map[string]*revocation // by the record's key
}

// revocation is the revocation of one volume's credentials at one provider.
type revocation struct {
	rec     *Record
	tries   int
	since   time.Time
	trail   provider.Trail
	running chan struct{} // closed at the end of the current attempt; nil for none
}

// run works until ctx ends.
func (r *revoker) run(ctx context.Context) error {
	return r.queue.Run(ctx, schedule.Work{Workers: revokeWorkers, Limit: 2 * r.ReleaseTimeout, Do: r.attempt, Late: func(key string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if job := r.pending[key]; job != nil {
			r.Logger.Warn("a revocation hangs; its worker continues with other volumes", logkey.Volume, job.rec.ID, logkey.Provider, job.rec.Provider)
		}
	}})
}

// add starts the revocation for a gone volume, unless there is one already. The Store
// has its record.
func (r *revoker) add(rec *Record) {
	key := rec.Key()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending[key] == nil {
		r.pending[key] = &revocation{rec: rec, since: time.Now()}
		r.queue.Set(key, r.whereOf(rec), time.Now())
	}
}

// takeOver cancels a revocation before the provider is asked for a new volume of the
// same id. It waits for the current attempt, and reports whether there is still
// something to revoke. The record stays until the new volume has its own.
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

// attempt makes one attempt of a revocation, and schedules the next after a failure.
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
	case errors.Is(ctx.Err(), context.Canceled): // the driver stops, and the next process has the record
	case err != nil && job.tries < revokeTries:
		next := time.Now().Add(backoff.Delay(firstRetry, longestRevoke, job.tries-1, chance()))
		r.queue.Set(key, where, next)
		r.reportRetry(job, err, next)
	default:
		delete(r.pending, key)
		r.reportEnd(job, err)
	}
}

// reportRetry logs the first failure of a revocation, and reports each to the
// observers.
func (r *revoker) reportRetry(job *revocation, err error, next time.Time) {
	log := r.Logger.Debug
	if job.tries == 1 {
		log = r.Logger.Warn
	}
	log("revoking a volume's credentials failed, trying again",
		logkey.Volume, job.rec.ID, logkey.Pod, job.rec.Pod.String(), logkey.Tries, job.tries, logkey.Error, err, logkey.RetryAt, next)
	o := outcomeOf(ReleaseFailed, job.rec, job.since, err)
	o.Asked, o.NextAt, o.Versions, o.Failures, o.Repeated = job.trail.IDs(), next, nil, job.tries, job.tries > 1
	r.Observer.Observe(o)
}

// reportEnd deletes the record and reports the end; err is why the revoker gave up, nil
// for success.
func (r *revoker) reportEnd(job *revocation, err error) {
	if derr := r.Store.Delete(job.rec); derr != nil {
		r.Logger.Error("deleting the record of a volume", logkey.Volume, job.rec.ID, logkey.Error, derr)
	}
	o := outcomeOf(Released, job.rec, job.since, err)
	o.Asked, o.NextAt, o.Versions = job.trail.IDs(), time.Time{}, nil
	r.Observer.Observe(o)
	if err != nil {
		r.Logger.Error("giving up on revoking a volume's credentials; they expire by their TTL",
			logkey.Volume, job.rec.ID, logkey.Pod, job.rec.Pod.String(), logkey.Tries, job.tries, logkey.Error, err)
	}
}

// Revocation is a pending revocation of a gone volume's credentials.
type Revocation struct {
	Identity
	Provider string
	// Tries is the number of attempts so far, of Most; NextAt is the time of the next.
	Tries, Most int
	Since       time.Time
	NextAt      time.Time
	Running     bool
}

// list returns the revocations, in no order.
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
