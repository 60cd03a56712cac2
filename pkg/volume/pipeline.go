package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/pkg/trace"
	"github.com/mayfly-csi/mayfly/pkg/volume/target"
)

// run is one run of the pipeline over one volume. It changes its own record,
// which is a copy of the volume's.
type run struct {
	m   *Manager
	rec *Record
	// fresh has the provider ask the store itself.
	fresh bool
	// timeout bounds one attempt; zero leaves that to the caller.
	timeout time.Duration
	// prepare makes the volume ready to be written to: a publish mounts it, a
	// refresh looks at the mount.
	prepare func(c *class.Class) error
	// mounted tells that an undone publish must unmount.
	mounted bool
	// tookOver tells that the provider still has what it gave an earlier volume
	// of the same id.
	tookOver bool
	// lastClass tells that the attempt is by the class of the last payload, and
	// onDenied is then what the class as it is now says; empty for none.
	lastClass bool
	onDenied  class.OnDenied
	result
}

// result is what came of a run, as far as it went.
type result struct {
	class *class.Class // nil if it was not found
	asked []string     // the ids of the requests to the store
	// accesses are the logins and renewals among them.
	accesses []provider.Access
	changed  bool
	emptied  bool
	// written tells whether the volume holds the payload of this run, and
	// refreshAt when that is due by the provider's word.
	written   bool
	refreshAt time.Time
	warnings  []string
	warnPod   bool // the pod's author has not been told of them yet
	steps     []StepTime
	// where is where the store was asked by the class as it is now.
	where schedule.Where
}

// step makes one step, whose time is noted and whose span is a part of the run's.
func (r *result) step(ctx context.Context, s Step, do func(context.Context) error) error {
	ctx, span := trace.Step(ctx, string(s))
	began := time.Now()
	err := do(ctx)
	r.steps = append(r.steps, StepTime{s, time.Since(began)})
	span.End(err)
	return err
}

// newPublish is the run of a publish at a target where something was found.
// before is the record of a live volume whose mount is lost; nil for a new one.
func newPublish(m *Manager, q Request, before *Record, found target.Content) *run {
	r := &run{m: m, rec: &Record{Request: q}}
	if before != nil {
		r.rec.Warned, r.rec.Provider, r.rec.ProviderState = before.Warned, before.Provider, before.ProviderState
	}
	if found != target.Nothing {
		m.targets().Repair(r.rec.ID, r.rec.Target)
		m.memory.adopt(r.rec)
	}
	r.mounted = found == target.Empty && before == nil // a crash has left it
	r.prepare = func(c *class.Class) error {
		if found != target.Nothing {
			return nil
		}
		err := m.targets().Mount(r.rec.Target, m.mountOptions(&r.rec.Request, c))
		r.mounted = err == nil
		return err
	}
	return r
}

// newRefresh is the run of a refresh of a live volume.
func newRefresh(m *Manager, before *Record, fresh bool) *run {
	rec := *before
	r := &run{m: m, rec: &rec, fresh: fresh, timeout: m.RefreshTimeout}
	mountedBy := rec.LastClass // whose limits the mount has
	r.prepare = func(c *class.Class) error {
		resize := mountedBy != nil && c.ResourceVersion != mountedBy.ResourceVersion
		err := m.targets().Check(r.rec.Target, r.rec.Class, m.mountOptions(&r.rec.Request, c), resize)
		if err == nil {
			mountedBy = c
		}
		return err
	}
	return r
}

// bound gives one attempt its time.
func (r *run) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if r.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, r.timeout)
}

// do is the one way of a secret from the class to the files. If the class as it
// is now cannot be used, a live volume is kept up by the class of its last
// payload, so that no credential in it ends because of an edit. The run fails
// all the same.
func (r *run) do(ctx context.Context) (err error) {
	defer fault.Recover(&err, r.m.Logger, "class "+r.rec.Class.String(), logkey.Volume, r.rec.ID)

	// 1. Find the class, and run by it.
	var now *class.Class
	err = r.step(ctx, StepClass, func(ctx context.Context) (err error) {
		now, err = r.findClass(ctx)
		return err
	})
	if err == nil {
		err = r.attempt(ctx, now)
	}
	if err == nil || r.written || r.emptied || ctx.Err() != nil || !r.mayUseLastClass(now) {
		return err
	}

	// 2. Run by the last class. What a denial does to the files is still for the
	// class as it is now to say, as long as there is one.
	first := r.result
	r.result, r.lastClass = result{}, true
	if now != nil {
		r.onDenied = now.OnDenied
	}
	if failed := r.attempt(ctx, r.rec.LastClass); failed != nil {
		err = fmt.Errorf("%w; keeping the volume up by the class that it had failed too: %w", err, failed)
	}
	r.asked, r.accesses = append(first.asked, r.asked...), append(first.accesses, r.accesses...)
	r.steps, r.where = first.steps, first.where // the next run begins with that again
	return err
}

// findClass finds the class. A live volume goes on with its last one while the
// API server is away.
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

// mayUseLastClass tells whether a live volume had another class than the one as
// it is now, which may be nil.
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

	// 1. Refuse what cannot come to a payload in the volume.
	c, source, err := r.admit(c)
	if err != nil {
		return err
	}
	// 2. Record who is asked. Nobody revokes what the provider gives from now on.
	if err := r.useProvider(ctx, c.Provider); err != nil {
		return err
	}
	// 3. Mount a new volume beside the fetch, which mostly waits for the store.
	ready := sync.OnceValue(func() error { return r.prepare(c) })
	if !r.rec.published() {
		defer r.watchSlow(source)()
		var mounting errgroup.Group
		mounting.Go(func() (err error) {
			defer fault.Recover(&err, r.m.Logger, "class "+c.String(), logkey.Volume, r.rec.ID)
			return ready()
		})
		defer func() { _ = mounting.Wait() }() // ready tells of its error, and an undo comes after it
	}
	// 4. Ask the store.
	asked := time.Now()
	var payload *provider.Payload
	var asOf time.Time
	err = r.step(ctx, StepStore, func(ctx context.Context) (err error) {
		payload, asOf, err = r.fetch(ctx, c, source, ready)
		return err
	})
	r.where = r.m.whereOf(r.rec)
	if err != nil {
		return err
	}
	r.warnings = append(r.warnings, payload.Warnings...)
	// 5. Write the files, if they are within the limits of the volume and fit into
	// the memory of the node.
	files, all, err := r.files(c, payload)
	if err != nil {
		return err
	}
	if err := r.step(ctx, StepMount, func(context.Context) error { return ready() }); err != nil {
		return err
	}
	if err := r.step(ctx, StepWrite, func(context.Context) error { return r.write(files) }); err != nil {
		return err
	}
	// 6. Record what the volume now holds.
	r.written, r.refreshAt = true, payload.RefreshAt
	former := r.rec.LastClass
	r.note(c, payload, asOf)
	// 7. Write what follows from the payload elsewhere, before kubelet is answered.
	if r.m.Follower != nil && !r.lastClass {
		_ = r.step(ctx, StepFollow, func(ctx context.Context) error { return r.follow(ctx, former, all, asked) })
	}
	return payload.Partial
}

// files are those of the payload and those that the class has made of them, within
// the limits of the volume: as they are written, and as a payload.
func (r *run) files(c *class.Class, payload *provider.Payload) ([]atomicdir.File, *provider.Payload, error) {
	owner := budget.Owner{Namespace: r.rec.Pod.Namespace, Volume: r.rec.ID}
	payload, err := r.m.Renderer.Render(c, payload, r.m.sizeLimit(c), owner)
	if err != nil {
		return nil, nil, err
	}
	files, err := r.m.fit(c, payload)
	return files, payload, err
}

// admit refuses what cannot come to a payload in the volume before the store is
// asked. The class that it gives has an interval that the operator allows.
func (r *run) admit(c *class.Class) (*class.Class, provider.Provider, error) {
	c, warning := r.m.withFloor(c)
	r.class = c
	source, err := r.m.Providers.Get(c.Provider)
	if err != nil {
		return nil, nil, err
	}
	if own := r.rec.Provider; own != "" && own != c.Provider {
		return nil, nil, fault.New(fault.InvalidClass, "spec.provider cannot change under a running pod: restart it").
			WithHint("its files are of provider %q, and the class now names %q", own, c.Provider)
	}
	r.warnings, err = r.m.reviewer.review(r, c, source)
	if warning != "" {
		r.warnings = append(r.warnings, warning)
	}
	if err == nil {
		err = checkClassSize(c)
	}
	if err == nil && !r.rec.published() {
		err = r.m.checkCeilings(c)
	}
	if err == nil {
		err = r.m.memory.expect(r.rec, func() int64 { return leastSize(r.m.all(), c) })
	}
	return c, source, err
}

// useProvider records the provider of a new volume. If the credentials of an
// earlier volume of the same id are still to be revoked there, that is called
// off: they are the new volume's, as the provider knows volumes by their id.
func (r *run) useProvider(ctx context.Context, name string) (err error) {
	if r.rec.Provider != "" {
		return nil
	}
	r.rec.Provider = name
	if r.tookOver, err = r.m.revoker.takeOver(ctx, r.rec); err != nil {
		r.rec.Provider = "" // which was not asked
	}
	return err
}

// endTakeOver forgets the revocation that the new volume has taken over, once it
// has a record of its own.
func (r *run) endTakeOver() {
	if !r.tookOver {
		return
	}
	if err := r.m.Store.Delete(r.rec.ForRevocation()); err != nil {
		r.m.Logger.Error("forgetting a revocation that a new volume of the same id has taken over", logkey.Volume, r.rec.ID, logkey.Error, err)
	}
}

// watchSlow tells observers of a first publish that waits for the store for long:
// until it ends, kubelet has nothing to say of the pod. The func that it returns
// ends that.
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

// fetch asks the store, and does what the class wants if that fails. It gives the
// age of a payload from memory; zero for the store's own.
func (r *run) fetch(ctx context.Context, c *class.Class, source provider.Provider, ready func() error) (*provider.Payload, time.Time, error) {
	trail := &provider.Trail{}
	q := r.request(c)
	q.Stager = r.m.targets().Stager(r.rec.ID, r.rec.Target, r.m.mountOptions(&r.rec.Request, c), ready)
	payload, err := source.Fetch(provider.WithTrail(ctx, trail), q)
	r.asked, r.accesses = trail.IDs(), trail.Accesses()
	if err == nil && payload.Partial != nil && (!r.rec.published() || r.mustEmpty(c, payload.Partial)) {
		err = payload.Partial // there is no former content, or a denial is to empty it
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

// recall lets a new pod start from the node's memory while the store is away, if
// its class says so. The volume is due again at once.
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

// mustEmpty tells whether the class has a live volume emptied for the error: for
// a denial that is certain, never for an outage.
func (r *run) mustEmpty(c *class.Class, err error) bool {
	policy := c.OnDenied
	if r.onDenied != "" {
		policy = r.onDenied
	}
	return policy == class.DeniedEmpty && fault.Of(err) == fault.Denied
}

// empty takes the files of a live volume away.
func (r *run) empty(err error, ready func() error) error {
	if perr := ready(); perr != nil {
		return errors.Join(err, perr)
	}
	changed, werr := r.m.targets().Write(r.rec.ID, r.rec.Target, r.rec.GID, nil)
	if werr != nil {
		return errors.Join(err, werr)
	}
	r.m.memory.use(r.rec, costOf(nil), changed) // which always has the room
	r.changed, r.emptied, r.rec.Versions, r.rec.AsOf = changed, true, nil, time.Time{}
	return fmt.Errorf("the volume is empty, as the class's onDenied asks: %w", err)
}

// write puts the files into the volume, all or nothing.
func (r *run) write(files []atomicdir.File) error {
	size := costOf(files)
	undo, err := r.m.memory.reserve(r.rec, size)
	if err != nil {
		return err
	}
	if r.changed, err = r.m.targets().Write(r.rec.ID, r.rec.Target, r.rec.GID, files); err != nil {
		undo()
		return err
	}
	r.m.memory.use(r.rec, size, r.changed)
	return nil
}

// note brings the record up to date with what the volume now holds.
func (r *run) note(c *class.Class, payload *provider.Payload, asOf time.Time) {
	now, rec := time.Now(), r.rec
	sameIDs := func(x, y provider.Version) bool { return x.ID == y.ID }
	if !payload.SameFilesSameVersions || r.changed || !slices.EqualFunc(rec.Versions, payload.Versions, sameIDs) {
		rec.Versions = payload.Versions
	} // else it is a plugin that answers a new version each time, and no pod is to restart for that
	rec.LastClass, rec.AsOf = c, asOf
	rec.RefreshedAt, rec.Interval = now, r.m.interval(c)
	rec.DueAt = nextDue(now, payload.RefreshAt, rec.Interval, chance())
	rec.EndsDueAt, rec.Ends, rec.EndsOf = time.Time{}, nil, nil
	for _, l := range payload.Leases {
		rec.EndsDueAt, rec.Ends, rec.EndsOf = payload.RefreshAt, append(rec.Ends, l.Expires), append(rec.EndsOf, l.Object)
	}
	r.m.exportState(rec)
}

// ofClass names the class in front of every error that comes of it.
func ofClass(ref class.Ref, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("SecretProviderClass %s: %w", ref, err)
}
