package kube

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// watcher watches one class that is retained. The Source's mutex guards its fields.
type watcher struct {
	*Source
	ref    class.Ref
	count  int
	cancel context.CancelFunc // nil until it runs
	// wake ends a pause early: the API server answers again.
	wake chan struct{}
	// idle stops the watcher a while after the last Release.
	idle *time.Timer

	// syncing is true during the list from which the watch will begin.
	syncing bool
	// last is the class when it was last seen, nil if it was not, and charge is for
	// its memory.
	last   *snapshot
	charge *budget.Charge
	// live is true while the watch is open, so that last is current.
	live bool
}

// run keeps last current until ctx ends:
//
//  1. Without a version to watch from, list the class.
//  2. Watch from that version until the watch ends, and keep the version that it
//     reached.
//  3. If the version was too old, drop it.
//  4. If the watch worked for a while, or this is the first failure and the version
//     was too old, continue at once: servers end watches and forget versions now and
//     then.
//  5. Otherwise pause, longer each time, and continue.
func (w *watcher) run(ctx context.Context) {
	version, failures := "", 0
	var before error
	for ctx.Err() == nil {
		var err error
		lasted := false
		if version == "" {
			version, err = w.sync(ctx)
		}
		if err == nil {
			version, lasted, err = w.stream(ctx, version)
		}
		if lasted {
			failures, before = 0, nil
		} else {
			failures++
		}
		if gone(err) {
			version = ""
		}
		if lasted || gone(err) && failures == 1 {
			continue
		}
		w.lost(ctx, err, before)
		w.wait(ctx, pause(failures, fault.RetryAfter(err), rand.Float64()), w.wake)
		before = err
	}
}

// sync lists the class, and returns the version to watch from.
func (w *watcher) sync(ctx context.Context) (version string, err error) {
	w.setSyncing(true)
	defer w.setSyncing(false)
	found, err := w.look(ctx, w.ref)
	if err != nil {
		return "", err
	}
	w.take(ctx, found)
	return found.listed, nil
}

func (w *watcher) setSyncing(is bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.syncing = is
}

// stream watches from a version until the watch ends. It returns the version that it
// reached, and whether the watch lasted long enough to count as one that works.
func (w *watcher) stream(ctx context.Context, version string) (reached string, lasted bool, err error) {
	began := w.now()
	events, stop, err := w.client.watch(ctx, w.ref, version)
	if err != nil {
		if !gone(err) {
			w.account(err)
		}
		return version, false, watchFailed(w.ref, err)
	}
	w.account(nil)
	defer stop()
	w.resume(ctx)
	defer func() { lasted = w.now().Sub(began) >= steady }()
	for e := range events {
		object, ok := e.Object.(*v1.SecretProviderClass)
		switch {
		case e.Type == watch.Error || !ok:
			return version, false, watchFailed(w.ref, apierrors.FromObject(e.Object))
		case object.ResourceVersion == "":
			return version, false, fault.New(fault.BadAnswer, "watching class %s: an event without a resource version", w.ref)
		}
		version = object.ResourceVersion
		if object.Name != w.ref.Name {
			continue
		}
		switch e.Type {
		case watch.Added, watch.Modified:
			w.take(ctx, w.parse(w.ref, object))
		case watch.Deleted:
			w.take(ctx, w.parse(w.ref, nil))
		}
	}
	return version, false, nil
}

// resume records that the watch is open.
func (w *watcher) resume(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live = ctx.Err() == nil && w.last != nil
}

// take replaces last, and calls OnVersion if the version is another one.
func (w *watcher) take(ctx context.Context, now *snapshot) {
	w.mu.Lock()
	if ctx.Err() != nil || w.watchers[w.ref] != w {
		w.mu.Unlock()
		return
	}
	last := w.last
	w.last, w.live = now, true
	w.mu.Unlock()
	w.setCharge(now)
	if last == nil || last.version != now.version {
		w.OnVersion(w.ref, now.usable())
	}
}

// lost records that the watch is closed. account has logged that the API server does
// not answer, once for all classes; lost logs any other reason once for its class.
func (w *watcher) lost(ctx context.Context, err, before error) {
	w.mu.Lock()
	w.live = false
	w.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	level := slog.LevelDebug
	if err != nil && !fault.Of(err).Outage() && (before == nil || fault.Of(err) != fault.Of(before)) {
		level = slog.LevelWarn
	}
	w.Logger.Log(ctx, level, "edits of a class are not noticed", logkey.Class, w.ref.String(), logkey.Error, err)
}

// setCharge charges the budget for now, which has just become last. The caller does not
// hold the mutex: the budget may call forget of another class.
func (w *watcher) setCharge(now *snapshot) {
	var charge *budget.Charge
	if now.class != nil {
		var err error
		charge, err = w.Budget.AcquireCache(budget.Owner{Namespace: w.ref.Namespace}, now.class.Size(), func() { w.forget(now) })
		if err != nil {
			w.forget(now)
		}
	}
	w.mu.Lock()
	over := charge
	if w.watchers[w.ref] == w && w.last == now {
		over, w.charge = w.charge, charge
	}
	w.mu.Unlock()
	over.Release()
}

// forget frees the memory of a class and keeps its version, so that OnVersion is still
// called after an edit. The next Get asks the API server.
func (w *watcher) forget(what *snapshot) {
	w.mu.Lock()
	var over *budget.Charge
	if w.last == what {
		w.last = &snapshot{version: what.version, listed: what.listed}
		over, w.charge = w.charge, nil
	}
	w.mu.Unlock()
	over.Release()
}

// watchFailed keeps what run needs to know of a failed watch: when the server wants to
// be asked again, and whether the version was too old.
func watchFailed(ref class.Ref, err error) error {
	f := fault.New(reason(err), "watching class %s: %w", ref, err)
	f.RetryAfter = retryAfter(err)
	return f
}
