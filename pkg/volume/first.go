package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// first publishes a volume that does not hold a payload that we know of. If it
// fails it undoes what it made, and nothing older: a published volume whose mount
// is lost is still in its pod, with all that the store gave for it.
func (p *Publisher) first(ctx context.Context, e *entry, r Request, had content) error {
	began := time.Now()
	rec := &Record{
		ID: r.ID, Target: r.Target, Pod: r.Pod, Class: r.Class, GID: r.GID, SELinuxContext: r.SELinuxContext,
		Tokens: r.Tokens, TokensInSecrets: r.TokensInSecrets, Secrets: r.Secrets, Ignored: r.Ignored, Warned: e.warned, Former: p.releaser.settle(ctx, r.ID),
	}
	lost := e.rec.published()
	if lost {
		rec.Former = e.rec.held()
	}
	asked := e.timesAsked()
	defer e.tries(&firstTry{target: r.Target, pod: r.Pod, class: r.Class, since: began})()
	if e.joinClass(r.Class) {
		p.Classes.Retain(r.Class)
	}
	if had != nothing {
		p.adoptContents(rec)
	}
	ctx, span := p.Tracer.Begin(ctx, string(Published), workOf(rec))
	place, undo := p.firstPlace(rec, had, lost)
	done, err := p.run(ctx, pass{rec: rec, place: place})
	if err == nil {
		rec.PublishedAt = rec.RefreshedAt
		err = done.step(ctx, StepRecord, func(context.Context) error { return p.saveFirst(rec, had) })
	}
	if err == nil {
		e.rec = rec
		e.know(rec, done.where)
		p.setDue(e, asked)
		p.releaser.addFormer(rec)
	} else {
		undo()
		if had != complete && !lost {
			p.rooms.release(rec.ID)
		}
		if lost {
			p.keepLost(e, rec, r)
		} else {
			p.letGo(rec)
		}
		err = p.firstError(rec, had == complete || lost, err)
	}
	o := passOutcome(Published, rec, began, done, err)
	p.tell(e, rec, done, &o)
	o.SetAside = p.takeAside(rec.ID)
	o.endSpan(span)
	p.Observer.Observe(o)
	return err
}

// firstPlace mounts the volume when it is first needed, and undoes that, or what
// a crash between the mount and the first payload has left. Once it is undone there
// is nothing to place any longer, so whoever comes late does no harm.
func (p *Publisher) firstPlace(rec *Record, had content, lost bool) (place func(*class.Class) error, undo func()) {
	var mu sync.Mutex
	settled, made := had != nothing, func() {}
	if settled {
		p.repair(rec)
	}
	if had == empty && !lost {
		made = func() { p.undoMount(rec) }
	}
	place = func(c *class.Class) (err error) {
		mu.Lock()
		defer mu.Unlock()
		if settled {
			return nil
		}
		made, err = p.mount(rec, c)
		settled = err == nil
		return err
	}
	return place, func() {
		mu.Lock()
		defer mu.Unlock()
		settled = true
		made()
	}
}

// placeAhead makes a new volume ready beside the fetch, which is mostly waiting
// for the store. Whoever needs the volume places it all the same, which waits
// for this one, and tells what went wrong.
func (p *Publisher) placeAhead(w pass, c *class.Class) (err error) {
	defer fault.Recover(&err, p.Logger, "class "+w.rec.Class.String(), "volume", w.rec.ID)
	return w.place(c)
}

// letGo ends what a failed publish may have got from the store. What there is
// to end must outlive a restart.
func (p *Publisher) letGo(rec *Record) {
	p.keep(rec)
	if rec.ProviderState.Len() > 0 || len(rec.Former) > 0 {
		rec.Leaving = true
		p.save(rec)
	}
	p.releaser.add(rec)
}

// keepLost has a published volume, whose mount could not be made again, hold what
// the failed publish may have got: its pod still uses what is of the same
// providers. Nothing is ended before kubelet unpublishes the volume.
func (p *Publisher) keepLost(e *entry, failed *Record, r Request) {
	for _, h := range failed.held() {
		if h.Provider != e.rec.Provider && !e.rec.isFormer(h.Provider) {
			e.rec.Former = append(slices.Clone(e.rec.Former), Held{Provider: h.Provider})
		}
	}
	p.keep(e.rec)
	p.save(e.rec)
	e.hand(r)
}

// firstError puts the pod in front: it is what people search their events
// for, and other people's tests read these words.
func (p *Publisher) firstError(rec *Record, kept bool, err error) error {
	err = fmt.Errorf("failed to mount secrets store objects for pod %s: %w", rec.Pod, err)
	if kept {
		return &KeptError{err}
	}
	return err
}

// mount makes the target directory where kubelet has not, and mounts the
// tmpfs. The func that it returns takes both away again.
func (p *Publisher) mount(rec *Record, c *class.Class) (undo func(), err error) {
	none := func() {}
	made := false
	switch err := os.Mkdir(rec.Target, 0o750); {
	case err == nil:
		made = true
	case !errors.Is(err, fs.ErrExist):
		return none, fault.New(fault.Mount, "creating the target path: %w", err).
			WithHint("kubelet makes its parent directory before it calls")
	}
	if err := p.Mounts.Mount(rec.Target, p.mountOptions(rec, c)); err != nil {
		if made {
			_ = os.Remove(rec.Target)
		}
		return none, fault.New(fault.Mount, "mounting the volume: %w", err)
	}
	return func() { p.undoMount(rec) }, nil
}

func (p *Publisher) undoMount(rec *Record) {
	if err := p.Mounts.Cleanup(rec.Target); err != nil {
		p.Logger.Error("undoing a failed publish", "volume", rec.ID, "target", rec.Target, "error", err)
	}
}

// saveFirst wants the record of a new volume to be saved, or else a restart
// would forget its credentials. In a volume that was live before, the new
// payload has taken the place of the old by now: ending its credentials would
// leave the pod with nothing that works, so it goes on as any live volume.
func (p *Publisher) saveFirst(rec *Record, had content) error {
	if had == complete {
		p.save(rec)
		return nil
	}
	return p.Store.Put(rec)
}

// tell has the warnings of a pass told: in the log once for each edition of a
// class, and to the observer once for each edition and pod.
func (p *Publisher) tell(e *entry, rec *Record, done passed, o *Outcome) {
	o.Warnings = first(distinct(done.warnings), maxWarnings)
	if len(o.Warnings) == 0 || done.class == nil {
		return
	}
	if _, told := p.warned.get(done.class); !told {
		p.warned.set(done.class, struct{}{})
		for _, w := range o.Warnings {
			p.Logger.Warn("class warning", "class", rec.Class.String(), "pod", rec.Pod.String(), "warning", w)
		}
	}
	edition := done.class.UID + " " + done.class.ResourceVersion
	o.WarnPod, rec.Warned, e.warned = rec.Warned != edition, edition, edition
}
