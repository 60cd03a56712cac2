package volume

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// refreshTries are the parts of a refresh that RefreshTimeout bounds each: to
// get the class, to ask the store, and to ask it by the class before an edit.
const refreshTries = 3

// refresh is what a worker does with a due volume. It returns no error: the
// volume keeps its content, and the failure is made visible.
func (p *Publisher) refresh(ctx context.Context, id string) {
	e := p.find(id)
	if e == nil {
		return
	}
	if err := p.tryRefresh(ctx, e, id); err != nil { // it did not come to set a due time
		p.schedule.Hasten(id, e.whereNow(), time.Now().Add(p.Interval))
	}
	p.settleNews(e)
}

// tryRefresh fails where the volume could not be worked on, or by a panic.
func (p *Publisher) tryRefresh(ctx context.Context, e *entry, id string) (err error) {
	defer fault.Recover(&err, p.Logger, "refreshing volume "+id)
	work, end, err := e.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	if !e.isGone() && e.rec.published() {
		p.refreshLocked(work, e)
	}
	return nil
}

func (p *Publisher) refreshLocked(ctx context.Context, e *entry) {
	began := time.Now()
	rec, before := e.rec, e.rec.Failures
	fresh, asked := e.takeFresh()
	sized := rec.LastClass // whose limits the mount has
	ctx, span := p.Tracer.Begin(ctx, string(Refreshed), workOf(rec))
	done, err := p.run(ctx, pass{rec: rec, fresh: fresh, timeout: p.RefreshTimeout, place: func(c *class.Class) error {
		err := p.stillThere(rec, c, sized)
		if err == nil {
			sized = c
		}
		return err
	}})
	switch { // neither the end of the volume nor that of the driver is a failure
	case errors.Is(context.Cause(ctx), errUnpublished):
		span.End(errUnpublished)
		return // the unpublish saves what there is to release
	case err != nil && errors.Is(ctx.Err(), context.Canceled): // the next process goes on with what this one got
		p.keep(rec)
		p.save(rec)
		span.End(err)
		return
	}
	if err != nil {
		p.failed(e, fresh, done, err)
	} else {
		rec.Failures, rec.LastFailure, rec.LastReason, rec.FailedAt = 0, "", "", time.Time{}
	}
	e.failing.Store(err != nil)
	o := passOutcome(Refreshed, rec, began, done, err)
	o.Repeated = o.Reason() != "" && o.Reason() == e.reason
	e.reason = o.Reason()
	p.tell(e, rec, done, &o)
	e.know(rec, done.where)
	_ = done.step(ctx, StepRecord, func(context.Context) error { return p.put(rec) }) // which has logged it
	o.Steps = done.steps
	o.endSpan(span)
	p.setDue(e, asked)
	if err == nil {
		p.releaser.addFormer(rec)
		o.Failures = before
	}
	p.logRefresh(o)
	p.Observer.Observe(o)
}

// setDue schedules the next refresh after the one that began when the volume
// had been asked for so often: at once where that was done again meanwhile, or
// the class was edited.
func (p *Publisher) setDue(e *entry, asked int) {
	p.mu.Lock() // who asks holds it too
	defer p.mu.Unlock()
	due := e.rec.DueAt
	if now := time.Now(); (e.editedBeside(e.rec) || e.timesAsked() != asked) && due.After(now) {
		due = now
	}
	p.schedule.Set(e.rec.ID, e.whereNow(), due)
}

// failed notes a failed refresh and when to try again: in time for what the
// volume holds, which may be what this pass has put there all the same.
func (p *Publisher) failed(e *entry, fresh bool, done passed, err error) {
	rec := e.rec
	rec.Failures++
	now := time.Now()
	rec.LastFailure, rec.LastReason, rec.FailedAt = err.Error(), fault.Of(err), now
	rec.DueAt = retryDue(now, rec.Failures, rec.Interval, err, chance())
	held := done.refreshAt
	if !done.written {
		held = heldDue(now, rec.HeldDueAt, rec.HeldEnds)
		if fresh {
			e.keepFresh()
		}
	}
	rec.DueAt = capDue(rec.DueAt, now, held)
	p.keep(rec)
}

// stillThere refuses to write below a mount that is gone: the files would
// land on the node's disk. Kubelet's next republish mounts again. A mount with
// the limits of another class, sized, gets those of this one.
func (p *Publisher) stillThere(rec *Record, c, sized *class.Class) error {
	info, err := p.Mounts.Inspect(rec.Target)
	if err != nil {
		return fault.New(fault.Mount, "inspecting the target path %q: %w", rec.Target, err)
	}
	had, err := p.contentOf(rec.Target, info)
	if err != nil {
		return err
	}
	if had == nothing {
		return notMounted(rec.Target)
	}
	if sized != nil && c.ResourceVersion != sized.ResourceVersion && info.Ours {
		o := p.mountOptions(rec, c)
		if err := p.Mounts.Resize(rec.Target, o.Size, o.Inodes); err != nil {
			return fault.New(fault.Mount, "giving the volume the size that class %s now asks for: %w", c.Ref, err)
		}
	}
	return nil
}

// logRefresh says a failure once per episode, and once when it has ended.
func (p *Publisher) logRefresh(o Outcome) {
	log := p.Logger.With("volume", o.Volume, "pod", o.Pod.String(), "class", o.Class.String())
	switch {
	case o.Emptied && o.Changed:
		log.Warn("refresh denied, the volume was emptied as its class asks", "error", o.Err, "retryAt", o.NextAt)
	case o.Err != nil && o.Failures == 1:
		log.Warn("refresh failed, the volume keeps its last good content", "reason", string(o.Reason()), "error", o.Err, "retryAt", o.NextAt)
	case o.Err != nil:
		log.Debug("refresh failed again", "reason", string(o.Reason()), "error", o.Err, "failures", o.Failures, "retryAt", o.NextAt)
	case o.Failures > 0:
		log.Info("refresh recovered", "failures", o.Failures, "changed", o.Changed)
	case o.Changed:
		log.Info("rotated", "next", o.NextAt)
	default:
		log.Debug("refreshed, nothing changed", "next", o.NextAt)
	}
}

// ClassVersion is told a class's version, empty for one that is not there or
// cannot be used, when the class is first seen and when it has changed. It makes
// the volumes due whose payload another version made, spread over a second. What
// is due sooner stays so: a lease may be about to end.
func (p *Publisher) ClassVersion(ref class.Ref, version string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, n := time.Now(), 0
	for id, e := range p.entries {
		if e.askEdited(ref, version) {
			n++
			p.schedule.Hasten(id, e.whereNow(), now.Add(time.Duration(float64(editSpread)*chance())))
		}
	}
	p.Logger.Debug("the version of a class is known", "class", ref.String(), "volumesOfAnotherVersion", n)
}

// RefreshAll makes every volume due now, on a person's demand.
func (p *Publisher) RefreshAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for id, e := range p.entries {
		e.askFresh()
		p.schedule.Set(id, e.whereNow(), now)
	}
}

// RefreshPod makes the volumes of a pod due, on a person's demand: now, but for
// one that was looked at a moment ago. It gives their ids.
func (p *Publisher) RefreshPod(namespace, name string) (ids []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for id, e := range p.entries {
		known, live := e.peek()
		if !live || known.Pod.Namespace != namespace || known.Pod.Name != name {
			continue
		}
		at := now
		for _, looked := range []time.Time{known.RefreshedAt, known.FailedAt} {
			if rested := looked.Add(shortestWait); rested.After(at) && !looked.After(now) {
				at = rested
			}
		}
		e.askFresh()
		p.schedule.Hasten(id, e.whereNow(), at)
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
