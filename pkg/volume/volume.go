package volume

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/pkg/volume/target"
)

// Volume is one volume that this process knows.
//
// Its states and their transitions:
//
//	publishing  there is no payload yet
//	            -> live     the first payload is in the files and on record
//	            -> gone     the publish failed and undid its own changes
//	live        record is set, and the files are complete
//	            -> live     a republish, a refresh, a failed refresh
//	leaving     an Unpublish runs, or waits for the work that it canceled
//	            -> gone     the target is unmounted
//	            -> publishing or live, if the unmount failed: kubelet tries again
//	gone        the volume is not in the Manager's table: callers look the id up again
//
// One goroutine at a time works on a volume, between begin and end. Only that
// goroutine replaces the record and uses the two fields below it. Every goroutine
// may load the record, which is never changed. The mutex guards the other fields,
// for short times. The order of locks is: the Manager's mutex, the volume's mutex,
// the Scheduler's mutex.
type Volume struct {
	m      *Manager
	id     string
	worker chan struct{} // has a value between begin and end
	record atomic.Pointer[Record]

	retryFresh bool         // the next refresh bypasses caches, as the failed one did
	lastReason fault.Reason // of the last refresh, if it failed

	mu           sync.Mutex
	gone         bool
	unpublishing int                     // calls of Unpublish that run or wait
	cancel       context.CancelCauseFunc // cancels the current work; nil for none
	identity     Identity                // zero before the first publish; its class is retained
	since        time.Time               // the start of the current publish; zero for none
	where        schedule.Where          // the store of the next refresh
	inbox        inbox
}

type state int

const (
	publishing state = iota
	live
	leaving
	gone
)

var (
	// errUnpublished is the cause when Unpublish cancels the work on its volume.
	errUnpublished = errors.New("the volume is being unpublished")
	// errGone makes the Manager look the id up again.
	errGone = errors.New("the volume is gone")
)

// Publish returns nil only if the target is a mounted tmpfs with a complete
// payload. On failure it undoes its own changes only: a live volume whose mount is
// lost is still in its pod, and keeps its credentials.
func (v *Volume) Publish(ctx context.Context, r Request) error {
	// 1. A live volume takes the credentials and returns at once. The Scheduler
	// refreshes it, and a refresh that fails or hangs must not delay the pod.
	if done, err := v.republish(r); done {
		return err
	}

	// 2. Wait for other work on the volume, which may be live after that.
	ctx, err := v.begin(ctx)
	if err != nil {
		return err
	}
	defer v.end()
	began, before := time.Now(), v.record.Load()
	if before != nil {
		if err := before.conflict(r.Identity); err != nil {
			return err
		}
	}
	found, err := v.m.targets().Look(r.Target)
	if err != nil {
		return err
	}
	if before != nil && found == target.Complete {
		v.deliver(r.Credentials)
		return nil
	}

	// 3. Run the pipeline. It mounts the volume while it asks the store.
	v.beginPublish(r.Identity, began)
	w := newPublish(v.m, r, before, found)
	work, span := v.m.Tracer.Begin(ctx, string(Published), workOf(w.rec))
	err = w.do(work)

	// 4. Save the record and go live, or undo the publish.
	if err == nil {
		w.rec.PublishedAt = w.rec.RefreshedAt
		err = w.step(work, StepRecord, func() error { return v.m.saveFirst(w.rec, found) })
	}
	if err == nil {
		v.record.Store(w.rec)
		v.schedule(w.where)
		w.endTakeOver()
	} else {
		err = v.undoPublish(w, found, r, err)
	}

	// 5. Report the outcome.
	o := w.outcome(Published, began, err)
	o.SetAside = v.m.lost.take(v.id)
	o.endSpan(span)
	v.m.Observer.Observe(o)
	if err != nil && errors.Is(context.Cause(ctx), errUnpublished) {
		return fault.New(fault.Canceled, "publishing volume %s: %w", v.id, errUnpublished)
	}
	return err
}

// republish handles kubelet's repeated call for a live volume. It sends no request
// to the store or the API server. It returns false if the target may have no
// complete payload; then the caller finds out why.
func (v *Volume) republish(r Request) (done bool, err error) {
	rec := v.record.Load()
	if rec == nil {
		return false, nil
	}
	if err := rec.conflict(r.Identity); err != nil {
		return true, err
	}
	if found, err := v.m.targets().Look(r.Target); err != nil || found != target.Complete || !v.deliver(r.Credentials) {
		return false, nil
	}
	v.applyCredentials()
	return true, nil
}

// undoPublish unmounts what the publish has mounted, and has the revoker revoke its
// credentials. A live volume keeps everything that its pod uses.
func (v *Volume) undoPublish(w *run, found target.Content, r Request, err error) error {
	rec, before := w.rec, v.record.Load()
	err = fmt.Errorf("failed to mount secrets store objects for pod %s: %w", rec.Pod, err)
	if w.mounted {
		v.m.targets().Undo(rec.ID, rec.Target)
	}
	if before != nil {
		next := *before
		v.m.exportState(&next)
		v.record.Store(&next)
		_ = v.m.save(&next)
		v.deliver(r.Credentials)
		return &KeptError{err}
	}
	if rec.Provider != "" { // the provider was asked
		last := rec.ForRevocation()
		v.m.exportState(last)
		if last.ProviderState.Len() > 0 {
			v.m.saveLeaving(last)
		}
		v.m.revoker.add(last)
	}
	if found == target.Complete {
		return &KeptError{err}
	}
	v.m.memory.Release(v.id)
	return err
}

// Refresh updates the files. If that fails, the volume keeps its content, and the
// observers get the failure. Refresh itself returns an error only if it did no work
// and set no due time.
func (v *Volume) Refresh(ctx context.Context) (err error) {
	defer fault.Recover(&err, v.m.Logger, "refreshing volume "+v.id)
	// 1. Wait for other work on the volume, and empty the inbox.
	if ctx, err = v.begin(ctx); err != nil {
		return err
	}
	defer v.end()
	began, in, returns := time.Now(), v.take(true), v.m.waiters.remove(v.id)
	before := v.record.Load()
	if before == nil {
		return nil
	}
	fresh := in.fresh || in.version != nil || v.retryFresh
	v.retryFresh = false

	// 2. Run the pipeline on a copy of the record.
	w := newRefresh(v.m, before, fresh)
	rec := w.rec
	work, span := v.m.Tracer.Begin(ctx, string(Refreshed), workOf(rec))
	err = w.do(work)

	// 3. If an unpublish or the end of the driver canceled the refresh, that is no
	// failure. The unpublish, or the next process, continues with the credentials
	// that this refresh got.
	unpublished := errors.Is(context.Cause(ctx), errUnpublished)
	if unpublished || err != nil && errors.Is(ctx.Err(), context.Canceled) {
		v.m.exportState(rec)
		v.record.Store(rec)
		if !unpublished {
			_ = v.m.save(rec)
		}
		span.End(context.Cause(ctx))
		return nil
	}

	// 4. Set the time of the next refresh, and save the record.
	if err != nil {
		v.retryFresh = fresh && !w.written
		rec.setFailed(err, w.written, w.refreshAt, v.m.Count())
		v.m.exportState(rec)
	} else {
		rec.Failures, rec.LastFailure, rec.LastReason, rec.FailedAt = 0, "", "", time.Time{}
	}
	v.record.Store(rec)
	_ = w.step(work, StepRecord, func() error { return v.m.save(rec) })
	v.schedule(w.where)
	v.m.waiters.add(v.id, err, returns)

	// 5. Report the outcome.
	o := w.outcome(Refreshed, began, err)
	o.Repeated, v.lastReason = err != nil && o.Reason() == v.lastReason, o.Reason()
	if err == nil {
		o.Failures = before.Failures
	}
	o.endSpan(span)
	o.logRefresh(v.m.Logger)
	v.m.Observer.Observe(o)
	return nil
}

// Unpublish unmounts the volume and has its credentials revoked. It succeeds for a
// volume that was never published, and when it is called again.
func (v *Volume) Unpublish(ctx context.Context, path string) error {
	// 1. Cancel the current work, and wait until it ends.
	if err := v.beginUnpublish(ctx); err != nil {
		return err
	}
	defer v.end()
	began, rec := time.Now(), v.record.Load()

	// 2. If there is no payload, or the path is another one, only unmount it.
	if rec == nil || rec.Target != path {
		if err := v.m.targets().Unmount(path); err != nil {
			return err
		}
		if rec == nil {
			v.m.memory.Release(v.id)
		}
		v.m.lost.take(v.id)
		return nil
	}

	// 3. Unmount. If that fails, the volume stays live.
	v.m.scheduler.Remove(v.id)
	err := v.m.targets().Unmount(path)
	o := outcomeOf(Unpublished, rec, began, err)
	o.NextAt = time.Time{}
	if err != nil {
		v.schedule(schedule.Where{})
		v.m.Observer.Observe(o)
		return err
	}
	v.m.memory.Release(v.id)

	// 4. Have the credentials revoked, also those of canceled work. Then forget the
	// volume: a publish of the same id waits until then, and takes the revocation
	// over.
	last := rec.ForRevocation()
	v.m.exportState(last)
	v.m.saveLeaving(last)
	v.m.Observer.Observe(o)
	v.m.revoker.add(last)
	v.m.forget(v)
	return nil
}

// beginPublish records what is published, and retains the class.
func (v *Volume) beginPublish(i Identity, at time.Time) {
	v.mu.Lock()
	first := v.identity.ID == ""
	v.identity, v.since = i, at
	v.mu.Unlock()
	if first {
		v.m.Classes.Retain(i.Class)
	}
}

// lock waits until no other goroutine works on the volume.
func (v *Volume) lock(ctx context.Context) error {
	select {
	case v.worker <- struct{}{}:
	case <-ctx.Done():
		return fault.New(fault.Of(ctx.Err()), "waiting for other work on volume %s: %w", v.id, ctx.Err())
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.gone {
		<-v.worker
		return errGone
	}
	return nil
}

// begin waits until the caller may work on the volume, which lasts until it calls
// end. Unpublish cancels the returned context.
func (v *Volume) begin(ctx context.Context) (context.Context, error) {
	if err := v.lock(ctx); err != nil {
		return ctx, err
	}
	work, cancel := context.WithCancelCause(ctx)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cancel = cancel
	if v.unpublishing > 0 {
		cancel(errUnpublished)
	}
	return work, nil
}

// end removes a volume without a payload from the table.
func (v *Volume) end() {
	if v.record.Load() == nil {
		v.m.forget(v)
	}
	v.mu.Lock()
	v.since = time.Time{}
	if v.cancel != nil {
		v.cancel(nil)
		v.cancel = nil
	} else {
		v.unpublishing-- // it has no context to cancel
	}
	v.mu.Unlock()
	<-v.worker
	v.applyCredentials()
}

// beginUnpublish is begin for an Unpublish, which nothing cancels.
func (v *Volume) beginUnpublish(ctx context.Context) error {
	v.mu.Lock()
	v.unpublishing++
	if v.cancel != nil {
		v.cancel(errUnpublished)
	}
	v.mu.Unlock()
	err := v.lock(ctx)
	if err != nil {
		v.mu.Lock()
		v.unpublishing--
		v.mu.Unlock()
	}
	return err
}

// state returns the volume's state. The caller holds the mutex.
func (v *Volume) state() state {
	switch {
	case v.gone:
		return gone
	case v.unpublishing > 0:
		return leaving
	case v.record.Load() == nil:
		return publishing
	}
	return live
}

// setGone sets the state to gone. It returns the class that was retained for the
// volume; false if there is none, or setGone was called before.
func (v *Volume) setGone() (retained class.Ref, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	ok = !v.gone && v.identity.ID != ""
	v.gone = true
	return v.identity.Class, ok
}
