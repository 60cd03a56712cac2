package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/pkg/trace"
	"github.com/mayfly-csi/mayfly/pkg/volume/limits"
	"github.com/mayfly-csi/mayfly/pkg/volume/target"
)

// run is one run of the pipeline for one volume. It changes its own copy of the
// volume's record.
type run struct {
	m   *Manager
	rec *Record
	// fresh makes the provider bypass its caches.
	fresh bool
	// timeout bounds one attempt; zero if the caller bounds it.
	timeout time.Duration
	// prepare makes the volume ready for files: a publish mounts it, a refresh checks
	// the mount.
	prepare func(c *class.Class) error
	// mounted says that a failed publish must unmount.
	mounted bool
	// tookOver says that the provider still has the credentials of an earlier volume
	// of the same id.
	tookOver bool
	// lastClass says that the attempt uses the class of the last payload. onDenied is
	// then that of the current class; empty for none.
	lastClass bool
	onDenied  class.OnDenied
	// rendering makes the files of the attempt's class; nil before it is needed.
	rendering Rendering
	result
}

// result is the result of a run, as far as the run went.
type result struct {
	class *class.Class // nil if it was not found
	asked []string     // the ids of the requests to the store
	// accesses are its logins and renewals.
	accesses []provider.Access
	changed  bool
	emptied  bool
	// written says that the volume has the payload of this run; refreshAt is when the
	// provider wants the next refresh.
	written   bool
	refreshAt time.Time
	warnings  []string
	warnPod   bool // the pod has no Event about them yet
	steps     []StepTime
	// where is the store that the current class names.
	where schedule.Where
}

// step runs one step without requests to the store, and records its time and its span.
func (r *result) step(ctx context.Context, s Step, do func() error) error {
	began := time.Now()
	err := do()
	trace.Record(ctx, string(s), began, began.Add(r.timed(s, began)), err)
	return err
}

// timed records the time of a step that has ended, and returns it.
func (r *result) timed(s Step, began time.Time) time.Duration {
	took := time.Since(began)
	r.steps = append(r.steps, StepTime{s, took})
	return took
}

// newPublish returns the run of a publish; found is what is at the target. before is
// the record of a live volume whose mount is lost; nil for a new volume.
func newPublish(m *Manager, q Request, before *Record, found target.Content) *run {
	r := &run{m: m, rec: &Record{Request: q}}
	if before != nil {
		r.rec.Warned, r.rec.Provider, r.rec.ProviderState = before.Warned, before.Provider, before.ProviderState
	}
	if found != target.Nothing {
		m.targets().Repair(r.rec.ID, r.rec.Target)
		r.rec.Size = m.memory.Adopt(r.rec.Owner(), r.rec.Target, r.rec.Size)
	}
	r.mounted = found == target.Empty && before == nil // a crash has left it
	r.prepare = func(c *class.Class) error {
		if found != target.Nothing {
			return nil
		}
		err := m.targets().Mount(r.rec.Target, r.m.mountOptions(&r.rec.Request, c))
		r.mounted = err == nil
		return err
	}
	return r
}

// newRefresh returns the run of a refresh of a live volume.
func newRefresh(m *Manager, before *Record, fresh bool) *run {
	rec := *before
	r := &run{m: m, rec: &rec, fresh: fresh, timeout: m.RefreshTimeout}
	mountedBy := rec.LastClass // whose limits the mount has
	r.prepare = func(c *class.Class) error {
		resize := mountedBy != nil && c.ResourceVersion != mountedBy.ResourceVersion
		err := m.targets().Check(r.rec.Target, r.rec.Class, r.m.mountOptions(&r.rec.Request, c), resize)
		if err == nil {
			mountedBy = c
		}
		return err
	}
	return r
}

// bound limits the time of one attempt.
func (r *run) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, r.timeout)
}

// do runs the pipeline, the only way of a secret from the class to the files. If the
// current class cannot be used, do runs it a second time by the class of the last
// payload, so that an edit does not let credentials in a live volume expire. It
// returns the error of the first run.
func (r *run) do(ctx context.Context) (err error) {
	defer func() { r.warnings, r.warnPod = r.m.reviewer.report(r.rec, r.class, r.warnings) }()
	defer fault.Recover(&err, r.m.Logger, "class "+r.rec.Class.String(), logkey.Volume, r.rec.ID)

	// 1. Find the class, and run by it.
	var now *class.Class
	err = r.step(ctx, StepClass, func() (err error) {
		now, err = r.findClass(ctx)
		return err
	})
	if err == nil {
		err = r.attempt(ctx, now)
	}
	if err == nil || r.written || r.emptied || ctx.Err() != nil || !r.mayUseLastClass(now) {
		return err
	}

	// 2. Run by the last class. The current class, if there is one, still decides what
	// a denial does to the files.
	first := r.result
	r.result, r.lastClass = result{}, true
	if now != nil {
		r.onDenied = now.OnDenied
	}
	if failed := r.attempt(ctx, r.rec.LastClass); failed != nil {
		err = fmt.Errorf("%w; keeping the volume up by the class that it had failed too: %w", err, failed)
	}
	r.asked, r.accesses = append(first.asked, r.asked...), append(first.accesses, r.accesses...)
	r.steps, r.where = first.steps, first.where // the next run begins there again
	return err
}

// findClass returns the class, or the last one of a live volume while the API server
// does not answer.
func (r *run) findClass(ctx context.Context) (*class.Class, error) {
	ctx, cancel := r.bound(ctx)
	defer cancel()
	c, err := r.m.Classes.Get(ctx, r.rec.Class)
	if err == nil {
		return c, nil
	}
	if r.rec.LastClass != nil && fault.Of(err).Outage() {
		r.m.Logger.Debug("the class cannot be read now, the last one serves", logkey.Class, r.rec.Class.String(), logkey.Error, err)
		return r.rec.LastClass, nil
	}
	return nil, err
}

// mayUseLastClass reports whether a live volume's last class differs from the current
// one, which may be nil.
func (r *run) mayUseLastClass(now *class.Class) bool {
	last := r.rec.LastClass
	return r.rec.published() && last != nil && (now == nil || !sameVersion(now, last))
}

// attempt runs the pipeline by one class. The record changes only once the
// payload is in the volume.
func (r *run) attempt(ctx context.Context, c *class.Class) (err error) {
	ctx, cancel := r.bound(ctx)
	defer cancel()
	defer func() { err = ofClass(r.rec.Class, err) }()
	defer fault.Recover(&err, r.m.Logger, "class "+r.rec.Class.String(), logkey.Volume, r.rec.ID)

	// 1. Refuse a class that cannot work.
	c, source, err := r.admit(c)
	if err != nil {
		return err
	}
	// 2. Record the provider. No revocation of an earlier volume runs from here on.
	if err := r.useProvider(ctx, c.Provider); err != nil {
		return err
	}
	// 3. Mount a new volume during the fetch, which mostly waits for the store.
	ready, wait := r.startMount(c)
	defer wait()
	if !r.rec.published() {
		defer r.watchSlow(source)()
	}
	// 4. Ask the store.
	storing, span := trace.Step(ctx, string(StepStore))
	asked := time.Now()
	payload, asOf, err := r.fetch(storing, c, source, ready)
	r.timed(StepStore, asked)
	span.End(err)
	r.where = r.m.whereOf(r.rec)
	if err != nil {
		return err
	}
	r.warnings = append(r.warnings, payload.Warnings...)
	// 5. Render, check the limits of the volume and of the node's memory, and write.
	files, all, err := r.files(c, payload)
	if err != nil {
		return err
	}
	r.warnings = append(r.warnings, all.Warnings...) // each is reported once
	if err := r.step(ctx, StepMount, ready); err != nil {
		return err
	}
	if err := r.step(ctx, StepWrite, func() error { return r.write(files) }); err != nil {
		return err
	}
	// 6. Record what the volume has now.
	r.written, r.refreshAt = true, payload.RefreshAt
	former := r.rec.LastClass
	r.setWritten(c, payload, asOf)
	// 7. Write Kubernetes Secrets and the like, before kubelet gets its answer.
	if r.m.Follower != nil && !r.m.Follower.Idle() && !r.lastClass {
		_ = r.step(ctx, StepFollow, func() error { return r.follow(ctx, former, all, asked) })
	}
	return payload.Partial
}

// startMount mounts a new volume in the background. ready waits for the mount, or checks
// the mount of a live volume; it returns the same error each time. The caller must call
// wait before it undoes the publish.
func (r *run) startMount(c *class.Class) (ready func() error, wait func()) {
	ready = sync.OnceValue(func() error { return r.prepare(c) })
	if r.rec.published() {
		return ready, func() {}
	}
	var mounting errgroup.Group
	mounting.Go(func() (err error) {
		defer fault.Recover(&err, r.m.Logger, "class "+c.String(), logkey.Volume, r.rec.ID)
		return ready()
	})
	return ready, func() { _ = mounting.Wait() } // ready returns the error
}

// files returns the provider's files and those that the class renders from them: as
// files for the volume, within its limits, and as a payload.
func (r *run) files(c *class.Class, payload *provider.Payload) ([]atomicdir.File, *provider.Payload, error) {
	if r.rendering == nil {
		var err error
		if r.rendering, _, err = r.m.Renderer.Prepare(r.rec.ID, c); err != nil {
			return nil, nil, err
		}
	}
	payload, err := r.rendering.Render(payload, r.m.PayloadLimit(c), r.rec.Owner())
	if err != nil {
		return nil, nil, err
	}
	files, err := r.m.Fit(c, payload)
	return files, payload, err
}

// admit refuses a class that cannot work before the store is asked. It returns the
// class with an interval that the operator allows.
func (r *run) admit(c *class.Class) (*class.Class, provider.Provider, error) {
	c, warning := r.m.WithFloor(c)
	r.class = c
	source, err := r.m.Providers.Get(c.Provider)
	if err != nil {
		return nil, nil, err
	}
	if own := r.rec.Provider; own != "" && own != c.Provider {
		return nil, nil, fault.New(fault.InvalidClass, "spec.provider cannot change under a running pod: restart it").
			WithHint("its files are of provider %q, and the class now names %q", own, c.Provider)
	}
	r.rendering, r.warnings, err = r.m.reviewer.review(r.rec, c, source)
	if warning != "" {
		r.warnings = append(r.warnings, warning)
	}
	if err == nil && !r.rec.published() {
		err = r.m.CheckCeilings(c)
	}
	if err == nil {
		err = expectRoom(r.m, r.rec, c)
	}
	return c, source, err
}

// useProvider records the provider of a new volume. It cancels a pending revocation
// for an earlier volume of the same id: the provider knows volumes by their id, so
// those credentials become the new volume's.
func (r *run) useProvider(ctx context.Context, name string) (err error) {
	if r.rec.Provider != "" {
		return nil
	}
	r.rec.Provider = name
	if r.tookOver, err = r.m.revoker.takeOver(ctx, r.rec); err != nil {
		r.rec.Provider = "" // it was not asked
	}
	return err
}

// endTakeOver deletes the record of the revocation that the new volume has taken over,
// after the volume has its own record.
func (r *run) endTakeOver() {
	if !r.tookOver {
		return
	}
	if err := r.m.Store.Delete(r.rec.ForRevocation()); err != nil {
		r.m.Logger.Error("deleting the revocation record of a volume that was published again", logkey.Volume, r.rec.ID, logkey.Error, err)
	}
}

// watchSlow reports a first publish that waits long for the store: kubelet reports
// nothing of the pod until the publish ends. The caller must call end.
func (r *run) watchSlow(source provider.Provider) (end func()) {
	o := Outcome{Kind: Waiting, Identity: r.rec.Identity, Took: r.m.SlowAfter}
	t := time.AfterFunc(r.m.SlowAfter, func() {
		if router, ok := source.(provider.Router); ok {
			o.Store = router.Destination(o.ID)
		}
		r.m.Observer.Observe(o)
	})
	return func() { t.Stop() }
}

// fetch asks the store, and follows the class's onUnavailable and onDenied if that
// fails. The time is that of a payload from memory; zero for the store's own.
func (r *run) fetch(ctx context.Context, c *class.Class, source provider.Provider, ready func() error) (*provider.Payload, time.Time, error) {
	trail := &provider.Trail{}
	q := r.request(c)
	q.Stager = r.m.targets().Stager(r.rec.ID, r.rec.Target, r.m.mountOptions(&r.rec.Request, c), ready)
	payload, err := source.Fetch(provider.WithTrail(ctx, trail), q)
	r.asked, r.accesses = trail.IDs(), trail.Accesses()
	if err == nil && payload.Partial != nil && (!r.rec.published() || r.mustEmpty(c, payload.Partial)) {
		err = payload.Partial // there is no former content, or the class wants it removed
	}
	switch {
	case err == nil:
		return payload, time.Time{}, nil
	case !r.rec.published():
		return r.recall(c, source, err)
	case r.mustEmpty(c, err):
		return nil, time.Time{}, r.empty(err, ready)
	}
	return nil, time.Time{}, err
}

func (r *run) request(c *class.Class) provider.Request {
	return provider.Request{
		Volume: r.rec.ID, Pod: r.rec.Pod, Tokens: r.rec.Tokens, TokensInSecrets: r.rec.TokensInSecrets, Class: c, Secrets: r.rec.Secrets,
		TargetPath: r.rec.Target, Current: r.rec.Versions, Fresh: r.fresh, Upkeep: r.lastClass,
	}
}

// recall returns the payload of a new pod from the node's memory while the store is
// unavailable, if the class allows that. The volume is due again soon.
func (r *run) recall(c *class.Class, source provider.Provider, err error) (*provider.Payload, time.Time, error) {
	known, ok := source.(provider.LastKnown)
	if !ok || c.OnUnavailable != class.UnavailableLastGood || !fault.Of(err).Outage() {
		return nil, time.Time{}, err
	}
	payload, asOf, ok := known.Recall(r.request(c), time.Now().Add(-r.m.LastGoodAge))
	if !ok {
		return nil, time.Time{}, fmt.Errorf("%w; onUnavailable is lastGood, but this node has nothing in memory for this service account that is at most %s old", err, r.m.LastGoodAge)
	}
	payload.RefreshAt = time.Now().Add(firstRetry)
	r.m.Logger.Warn("class warning", logkey.Class, r.rec.Class.String(), logkey.Pod, r.rec.Pod.String(), logkey.Warning,
		fmt.Sprintf("the pod starts from what this node had in memory as of %s, as onUnavailable asks: %v", asOf.UTC().Format(time.RFC3339), err))
	return payload, asOf, nil
}

// mustEmpty reports whether the class wants the files of a live volume removed after
// the error: only after a denial by the store itself, never after an outage.
func (r *run) mustEmpty(c *class.Class, err error) bool {
	return cmp.Or(r.onDenied, c.OnDenied) == class.DeniedEmpty && fault.Of(err) == fault.Denied
}

// empty removes the files of a live volume.
func (r *run) empty(err error, ready func() error) error {
	if perr := ready(); perr != nil {
		return errors.Join(err, perr)
	}
	changed, werr := r.m.targets().Write(r.rec.ID, r.rec.Target, r.rec.GID, nil)
	if werr != nil {
		return errors.Join(err, werr)
	}
	r.rec.Size = r.m.memory.Use(r.rec.Owner(), r.rec.Size, limits.CostOf(nil), changed)
	r.changed, r.emptied, r.rec.Versions, r.rec.AsOf = changed, true, nil, time.Time{}
	return fmt.Errorf("the volume is empty, as the class's onDenied asks: %w", err)
}

// write writes the files into the volume, all or none.
func (r *run) write(files []atomicdir.File) error {
	size := limits.CostOf(files)
	undo, err := r.m.memory.Reserve(r.rec.Owner(), r.rec.Size, size)
	if err != nil {
		return err
	}
	if r.changed, err = r.m.targets().Write(r.rec.ID, r.rec.Target, r.rec.GID, files); err != nil {
		undo()
		return err
	}
	r.rec.Size = r.m.memory.Use(r.rec.Owner(), r.rec.Size, size, r.changed)
	return nil
}

// setWritten updates the record after the payload is in the volume.
func (r *run) setWritten(c *class.Class, payload *provider.Payload, asOf time.Time) {
	now, rec := time.Now(), r.rec
	sameIDs := func(x, y provider.Version) bool { return x.ID == y.ID }
	if !payload.SameFilesSameVersions || r.changed || !slices.EqualFunc(rec.Versions, payload.Versions, sameIDs) {
		rec.Versions = payload.Versions
	} // otherwise a plugin answers a new version each time, and no pod must restart for that
	rec.LastClass, rec.AsOf = c, asOf
	rec.RefreshedAt, rec.Interval = now, cmp.Or(c.RefreshInterval, r.m.Interval)
	rec.DueAt = nextDue(now, payload.RefreshAt, rec.Interval, chance())
	rec.EndsDueAt, rec.Ends, rec.EndsOf = time.Time{}, nil, nil
	for _, l := range payload.Leases {
		rec.EndsDueAt, rec.Ends, rec.EndsOf = payload.RefreshAt, append(rec.Ends, l.Expires), append(rec.EndsOf, l.Object)
	}
	r.m.exportState(rec)
}

// ofClass adds the class to an error.
func ofClass(ref class.Ref, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("SecretProviderClass %s: %w", ref, err)
}

// follow calls the Follower with the payload that is in the volume now, and makes the
// next refresh earlier if the Follower asks for that. former is the class of the payload
// before, and asked is when the store was asked for this one.
func (r *run) follow(ctx context.Context, former *class.Class, payload *provider.Payload, asked time.Time) (err error) {
	rec := r.rec
	defer fault.Recover(&err, r.m.Logger, "what follows from class "+rec.Class.String(), logkey.Volume, rec.ID)
	files := slices.Clone(payload.Files)
	oldest := clock.Earliest(asked, OldestRead(files, payload.Leases))
	for i := range files { // a rendered file is as old as the oldest object
		if files[i].ReadAt.IsZero() {
			files[i].ReadAt = oldest
		}
	}
	again := r.m.Follower.Follow(ctx, Followed{
		Volume: rec.ID, Pod: rec.Pod, Class: rec.LastClass, Files: files, Versions: payload.Versions, Leases: payload.Leases,
		Rendering: r.rendering, Since: rec.PublishedAt, First: !rec.published(), Changed: r.changed, Edited: former != nil && !sameSpec(former, rec.LastClass), Recalled: !rec.AsOf.IsZero(),
	})
	rec.DueAt = clock.Earliest(rec.DueAt, again)
	return nil
}

// outcome returns the outcome of a publish or refresh.
func (r *run) outcome(k Kind, began time.Time, err error) Outcome {
	o := outcomeOf(k, r.rec, began, err)
	o.Steps, o.Warnings, o.WarnPod = r.steps, r.warnings, r.warnPod
	o.Changed, o.Emptied, o.Asked, o.Accesses = r.changed, r.emptied, r.asked, r.accesses
	o.AnsweredBy = r.m.answeredBy(r.rec.ID, r.rec.Provider)
	if r.class != nil {
		o.ClassVersion = r.class.ResourceVersion
	}
	return o
}
