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
// Its states, and what leads from one to the next:
//
//	publishing  there is no payload yet
//	            -> live     the first payload is in the files and on record
//	            -> gone     the publish failed and undid its own changes
//	live        record is set, and the files are complete
//	            -> live     a republish, a refresh, a refresh that failed
//	leaving     an Unpublish works, or waits for the work that it cuts short
//	            -> gone     the target is unmounted
//	            -> publishing or live, if the unmount failed: kubelet tries again
//	gone        the Manager's table has it no longer: callers look the id up again
//
// One goroutine at a time works on a volume, between begin and end. It alone
// replaces the record and uses the two fields below it. Every goroutine may load
// the record, which is never changed. The mutex guards the other fields and is
// held for moments. A goroutine that holds the Manager's mutex may take it, and
// one that holds it may take the Scheduler's, not the other way round.
type Volume struct {
	m      *Manager
	id     string
	worker chan struct{} // full between begin and end
	record atomic.Pointer[Record]

	retryFresh bool         // the next refresh bypasses caches, as the failed one did
	lastReason fault.Reason // why the last refresh failed; empty if it did not

	mu           sync.Mutex
	gone         bool
	unpublishing int                     // calls of Unpublish that work or wait
	cancel       context.CancelCauseFunc // ends the work under way; nil for none
	identity     Identity                // zero before the first publish; its class is retained
	since        time.Time               // when the publish under way began; zero for none
	where        schedule.Where          // the next refresh goes
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
	// errUnpublished is the cause that ends work on a volume that goes away.
	errUnpublished = errors.New("the volume is being unpublished")
	// errGone has the Manager look the id up again.
	errGone = errors.New("the volume is gone")
)

func newVolume(m *Manager, id string) *Volume {
	return &Volume{m: m, id: id, worker: make(chan struct{}, 1)}
}

// Publish returns nil only if the target is a mounted tmpfs that holds a
// complete payload. On failure it undoes its own changes only: a live volume
// whose mount is lost is still in its pod, with all that the store gave for it.
func (v *Volume) Publish(ctx context.Context, r Request) error {
	// 1. A live volume takes the credentials and waits for nothing: the Scheduler
	// refreshes it, and neither a failed refresh nor one that hangs is a reason to
	// hold the pod up.
	if done, err := v.republish(r); done {
		return err
	}

	// 2. Wait for other work on the volume, which may have become live meanwhile.
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

	// 3. Run the pipeline, which mounts the volume while it asks the store.
	v.beginPublish(r.Identity, began)
	w := newPublish(v.m, r, before, found)
	work, span := v.m.Tracer.Begin(ctx, string(Published), workOf(w.rec))
	err = w.do(work)
	v.m.reviewer.report(w)

	// 4. Save the record and go live, or undo the publish.
	if err == nil {
		w.rec.PublishedAt = w.rec.RefreshedAt
		err = w.step(work, StepRecord, func(context.Context) error { return v.m.saveFirst(w.rec, found) })
	}
	if err == nil {
		v.record.Store(w.rec)
		v.schedule(w.where)
		w.endTakeOver()
	} else {
		err = v.undoPublish(w, found, r, err)
	}

	// 5. Tell of it.
	o := w.outcome(Published, began, err)
	o.SetAside = v.m.lost.take(v.id)
	o.endSpan(span)
	v.m.Observer.Observe(o)
	if err != nil && errors.Is(context.Cause(ctx), errUnpublished) {
		return fault.New(fault.Canceled, "publishing volume %s: %w", v.id, errUnpublished)
	}
	return err
}

// republish is kubelet's repeated call for a live volume. With nothing new it
// asks neither the store nor the API server. It answers false where there may be
// no complete payload at the target: the caller finds out why.
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

// undoPublish takes away what the publish has mounted, and hands what the store
// gave for it to the revoker. A live volume keeps all that its pod uses.
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
	if rec.Provider != "" { // it was asked
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
	v.m.memory.release(v.id)
	return err
}

// Refresh brings the files up to date. The volume keeps its content whatever
// fails, and observers are told of the failure. An error means that no work was
// done and no due time set.
func (v *Volume) Refresh(ctx context.Context) (err error) {
	defer fault.Recover(&err, v.m.Logger, "refreshing volume "+v.id)
	// 1. Wait for other work on the volume, and take what came in for it.
	ctx, err = v.begin(ctx)
	if err != nil {
		return err
	}
	defer v.end()
	began, in := time.Now(), v.take(true)
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
	v.m.reviewer.report(w)

	// 3. Neither the end of the volume nor that of the driver is a failure. The
	// unpublish, or the next process, goes on with what this one got.
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
		rec.setFailed(&w.result, err)
		v.m.exportState(rec)
	} else {
		rec.Failures, rec.LastFailure, rec.LastReason, rec.FailedAt = 0, "", "", time.Time{}
	}
	v.record.Store(rec)
	_ = w.step(work, StepRecord, func(context.Context) error { return v.m.save(rec) })
	v.schedule(w.where)

	// 5. Tell of it.
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

// Unpublish takes the volume away. It works for a volume that was never
// published, and twice.
func (v *Volume) Unpublish(ctx context.Context, path string) error {
	// 1. Cut the work under way short, and wait for its end.
	if err := v.beginUnpublish(ctx); err != nil {
		return err
	}
	defer v.end()
	began, rec := time.Now(), v.record.Load()

	// 2. Without a payload, or at another path, there is only a mount to go.
	if rec == nil || rec.Target != path {
		if err := v.m.targets().Unmount(path); err != nil {
			return err
		}
		if rec == nil {
			v.m.memory.release(v.id)
		}
		v.m.lost.take(v.id)
		return nil
	}

	// 3. Unmount. If that fails the volume is live as before.
	v.m.scheduler.Remove(v.id)
	err := v.m.targets().Unmount(path)
	o := outcomeOf(Unpublished, rec, began, err)
	o.NextAt = time.Time{}
	if err != nil {
		v.schedule(schedule.Where{})
		v.m.Observer.Observe(o)
		return err
	}
	v.m.memory.release(v.id)

	// 4. Hand the credentials to the revoker, and forget the volume after that: a
	// publish of the same id waits until then, and must find what is revoked. Work
	// that was cut short may have got more of them.
	last := rec.ForRevocation()
	v.m.exportState(last)
	v.m.saveLeaving(last)
	v.m.Observer.Observe(o)
	v.m.revoker.add(last)
	v.m.forget(v)
	return nil
}

// beginPublish notes what is published and has the class retained.
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

// begin has the calling goroutine work on the volume until it calls end. The
// context ends early when the volume is unpublished.
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

// end takes a volume without a payload out of the table: nothing is to be done
// for it any longer.
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

// beginUnpublish is begin for an Unpublish, which nothing cuts short.
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

// state needs the mutex.
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

// setGone gives the class that was retained for the volume; false where there is
// none, or not any longer.
func (v *Volume) setGone() (retained class.Ref, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	ok = !v.gone && v.identity.ID != ""
	v.gone = true
	return v.identity.Class, ok
}
