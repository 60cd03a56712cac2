package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// pass is one run of the pipeline over one volume.
type pass struct {
	rec   *Record
	fresh bool
	// upkeep tells that the pass is by the class that the volume had.
	upkeep bool
	// timeout bounds one attempt; zero leaves that to the caller.
	timeout time.Duration
	// onDenied, where it is set, goes before the class's own.
	onDenied class.OnDenied
	// place makes the volume ready to be written to: the mount at first, a
	// look at it later. It may be called more than once.
	place func(c *class.Class) error
}

// bound gives one attempt its time.
func (w pass) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if w.timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, w.timeout)
}

// passed is what came of it, as far as it went.
type passed struct {
	class *class.Class // nil if it was not found
	asked []string     // the ids of the requests to the store
	// accesses are the logins and renewals among them.
	accesses []provider.Access
	changed  bool
	emptied  bool
	// written tells whether the volume holds the payload of this pass, and
	// refreshAt when that is due by the provider's word.
	written   bool
	refreshAt time.Time
	warnings  []string
	steps     []StepTime
	// where is where the store was asked by the class as it is now.
	where Where
}

// step makes one step, whose time is noted and whose span is a part of the pass's.
func (d *passed) step(ctx context.Context, s Step, do func(context.Context) error) error {
	ctx, span := trace.Step(ctx, string(s))
	began := time.Now()
	err := do(ctx)
	d.steps = append(d.steps, StepTime{s, time.Since(began)})
	span.End(err)
	return err
}

// run is the one way of a secret from the class to the files. A published
// volume whose class cannot be used any longer is kept up by the class that
// it had, and the pass counts as failed.
func (p *Publisher) run(ctx context.Context, w pass) (done passed, err error) {
	defer fault.Recover(&err, p.Logger, "class "+w.rec.Class.String(), "volume", w.rec.ID)
	var looked passed
	var c *class.Class
	err = looked.step(ctx, StepClass, func(ctx context.Context) (err error) {
		c, err = p.classOf(ctx, w)
		return err
	})
	if err == nil {
		done, err = p.attempt(ctx, w, c)
	}
	done.steps = append(looked.steps, done.steps...)
	if err == nil || done.written || done.emptied || ctx.Err() != nil || !w.hasFormer(c) {
		return done, err
	}
	first := done
	done, err = p.upkeep(ctx, w, c, err)
	done.asked, done.accesses = append(first.asked, done.asked...), append(first.accesses, done.accesses...)
	done.steps = first.steps
	done.where = first.where // the next pass begins with that again
	return done, err
}

// attempt is one way through the pipeline by one class. The record is changed
// only when the payload is in the volume.
func (p *Publisher) attempt(ctx context.Context, w pass, c *class.Class) (done passed, err error) {
	ctx, cancel := w.bound(ctx)
	defer cancel()
	defer func() { err = ofClass(c.Ref, err) }()
	defer fault.Recover(&err, p.Logger, "class "+w.rec.Class.String(), "volume", w.rec.ID)
	c, warning := p.withFloor(c)
	done.class = c
	source, err := p.Providers.Get(c.Provider)
	if err != nil {
		return done, err
	}
	if done.warnings, err = p.review(w, c, source); warning != "" {
		done.warnings = append(done.warnings, warning)
	}
	if err != nil {
		return done, err
	}
	if err := p.admit(w, c); err != nil {
		return done, err
	}
	p.hold(ctx, w.rec, c.Provider)
	if !w.rec.published() {
		defer p.tellSlow(w.rec, source)()
		go p.placeAhead(w, c)
	}
	var payload *provider.Payload
	var asOf time.Time
	err = done.step(ctx, StepStore, func(ctx context.Context) (err error) {
		payload, asOf, err = p.fetch(ctx, w, c, source, &done)
		return err
	})
	done.where = p.where(w.rec, c.Provider)
	if err != nil {
		return done, err
	}
	done.warnings = append(done.warnings, payload.Warnings...)
	files, err := p.fit(c, payload)
	if err != nil {
		return done, err
	}
	if err = done.step(ctx, StepMount, func(context.Context) error { return w.place(c) }); err != nil {
		return done, err
	}
	err = done.step(ctx, StepWrite, func(context.Context) (err error) {
		done.changed, err = p.fill(w.rec, c, files)
		return err
	})
	if err != nil {
		return done, err
	}
	done.written, done.refreshAt = true, payload.RefreshAt
	if payload.SameFilesSameVersions && !done.changed && sameIDs(w.rec.Versions, payload.Versions) {
		// Some plugins answer a new version each time, and nobody is to restart for
		// that.
		payload.Versions = w.rec.Versions
	}
	p.note(w.rec, c, payload)
	w.rec.AsOf = asOf
	return done, payload.Partial
}

// tellSlow tells of a first publish that waits for the store for long: until it
// ends, kubelet has nothing to say of the pod. The func that it returns ends
// that.
func (p *Publisher) tellSlow(rec *Record, source provider.Provider) (end func()) {
	o := Outcome{Kind: Waiting, Volume: rec.ID, Target: rec.Target, Pod: rec.Pod, Class: rec.Class, Took: p.SlowAfter}
	t := time.AfterFunc(p.SlowAfter, func() {
		if r, ok := source.(provider.Router); ok {
			o.Store = r.Destination(o.Volume)
		}
		p.Observer.Observe(o)
	})
	return func() { t.Stop() }
}

// ofClass names the class in front of every error that comes of it.
func ofClass(ref class.Ref, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("SecretProviderClass %s: %w", ref, err)
}

func sameIDs(a, b []provider.Version) bool {
	return slices.EqualFunc(a, b, func(x, y provider.Version) bool { return x.ID == y.ID })
}

// admit refuses what cannot come to a payload in the volume before the store is
// asked.
func (p *Publisher) admit(w pass, c *class.Class) error {
	if err := checkClassSize(c); err != nil {
		return err
	}
	if !w.rec.published() {
		if err := p.checkCeilings(c); err != nil {
			return err
		}
	}
	return p.expectRoom(w, c)
}

// fill writes the files, for which there must be room in the memory of the node.
func (p *Publisher) fill(rec *Record, c *class.Class, files []atomicdir.File) (changed bool, err error) {
	size := costOf(files)
	undo, err := p.makeRoom(rec, c, size)
	if err != nil {
		return false, err
	}
	if changed, err = p.write(rec, files); err != nil {
		undo()
		return false, err
	}
	p.holds(rec, size, changed)
	return changed, nil
}

// mustFail tells whether a payload that is partly the volume's former content
// is of no use: a new volume has none, and a denial may have to empty it.
func (w pass) mustFail(c *class.Class, partial error) bool {
	return partial != nil && (!w.rec.published() || w.empties(c, partial))
}

// fetch asks the store, and does what the class wants where that fails. It
// gives the age of a payload from memory; zero for the store's own.
func (p *Publisher) fetch(ctx context.Context, w pass, c *class.Class, source provider.Provider, done *passed) (*provider.Payload, time.Time, error) {
	trail := &provider.Trail{}
	r := w.request(c)
	r.Stager = p.stager(w, c)
	payload, err := source.Fetch(provider.WithTrail(ctx, trail), r)
	done.asked, done.accesses = trail.IDs(), trail.Accesses()
	if err == nil && w.mustFail(c, payload.Partial) {
		err = payload.Partial
	}
	switch {
	case err == nil:
		return payload, time.Time{}, nil
	case w.rec.published():
		return nil, time.Time{}, p.deny(w, c, done, err)
	}
	return p.recall(w, c, source, err)
}

// recall lets a new pod start from the node's memory while the store is away,
// where its class says so. The volume is due again at once.
func (p *Publisher) recall(w pass, c *class.Class, source provider.Provider, err error) (*provider.Payload, time.Time, error) {
	m, ok := source.(provider.LastKnown)
	if !ok || c.OnUnavailable != class.UnavailableLastGood || !fault.Of(err).Outage() {
		return nil, time.Time{}, err
	}
	payload, asOf, ok := m.Recall(w.request(c), time.Now().Add(-p.LastGoodAge))
	if !ok {
		return nil, time.Time{}, fmt.Errorf("%w; onUnavailable is lastGood, but this node has nothing in memory for this service account that is at most %s old", err, p.LastGoodAge)
	}
	payload.RefreshAt = time.Now().Add(firstRetry)
	p.Logger.Warn("class warning", "class", w.rec.Class.String(), "pod", w.rec.Pod.String(), "warning",
		fmt.Sprintf("the pod starts from what this node had in memory as of %s, as onUnavailable asks: %v", asOf.UTC().Format(time.RFC3339), err))
	return payload, asOf, nil
}

// deny empties a live volume whose class asks for that when the store refuses
// the pod.
func (p *Publisher) deny(w pass, c *class.Class, done *passed, err error) error {
	if !w.empties(c, err) {
		return err
	}
	if perr := w.place(c); perr != nil {
		return errors.Join(err, perr)
	}
	changed, werr := p.write(w.rec, nil)
	if werr != nil {
		return errors.Join(err, werr)
	}
	p.holds(w.rec, costOf(nil), changed) // nothing is refused that takes files away
	done.changed, done.emptied, w.rec.Versions, w.rec.AsOf = changed, true, nil, time.Time{}
	return fmt.Errorf("the volume is empty, as the class's onDenied asks: %w", err)
}

// empties is false for an outage, and for a denial that is not certain.
func (w pass) empties(c *class.Class, err error) bool {
	policy := c.OnDenied
	if w.onDenied != "" {
		policy = w.onDenied
	}
	return policy == class.DeniedEmpty && fault.Of(err) == fault.Denied
}

func (w pass) request(c *class.Class) provider.Request {
	return provider.Request{
		Volume: w.rec.ID, Pod: w.rec.Pod, Tokens: w.rec.Tokens, TokensInSecrets: w.rec.TokensInSecrets, Class: c, Secrets: w.rec.Secrets,
		TargetPath: w.rec.Target, Current: w.rec.Versions, Fresh: w.fresh, Upkeep: w.upkeep,
	}
}

// note brings the record up to date with what the volume now holds.
func (p *Publisher) note(rec *Record, c *class.Class, payload *provider.Payload) {
	now := time.Now()
	rec.use(c.Provider)
	rec.Versions, rec.LastClass = payload.Versions, c
	rec.RefreshedAt, rec.Interval = now, p.interval(c)
	rec.DueAt = nextDue(now, payload.RefreshAt, rec.Interval, chance())
	rec.HeldDueAt, rec.HeldEnds, rec.HeldObjects = time.Time{}, nil, nil
	for _, l := range payload.Leases {
		rec.HeldDueAt, rec.HeldEnds, rec.HeldObjects = payload.RefreshAt, append(rec.HeldEnds, l.Expires), append(rec.HeldObjects, l.Object)
	}
	p.keep(rec)
}

// write swaps the files in, all or nothing.
func (p *Publisher) write(rec *Record, files []atomicdir.File) (bool, error) {
	dir, err := p.openVolume(rec.Target)
	if err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }()
	changed, err := dir.Write(files, atomicdir.Options{GID: rec.GID})
	if err == nil {
		return changed, nil
	}
	reason := fault.Mount
	var bad *atomicdir.PathError
	switch {
	case errors.As(err, &bad):
		reason = fault.InvalidClass
	case errors.Is(err, atomicdir.ErrNoSpace):
		reason = fault.TooLarge
	}
	return false, fault.New(reason, "writing the files of volume %s at %q: %w", rec.ID, rec.Target, err)
}
