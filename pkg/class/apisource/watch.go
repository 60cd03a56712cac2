package apisource

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/backoff"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

const (
	firstPause   = 500 * time.Millisecond
	longestPause = 30 * time.Second
	// steady is how long a watch must last to count as one that works.
	steady = 5 * time.Second
	// maxWarned bounds the memory of what was warned of.
	maxWarned = 1024
)

// Retain keeps a class in memory, and has OnVersion told of its edits, until
// it is released as often. An edit that happens between a Get and a later
// Retain goes unnoticed: retain first.
func (s *Source) Retain(ref class.Ref) {
	if validRef(ref) != nil {
		return // Get refuses it
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watched[ref]
	if w == nil {
		w = &watched{ref: ref, kick: make(chan struct{}, 1)}
		s.watched[ref] = w
		s.start(w)
	}
	w.count++
	if w.idle != nil {
		w.idle.Stop()
		w.idle = nil
	}
}

// Release ends one Retain.
func (s *Source) Release(ref class.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watched[ref]
	if w == nil {
		return
	}
	if w.count > 0 {
		w.count--
	}
	switch {
	case w.count > 0, w.idle != nil:
	case s.Linger > 0 && w.cancel != nil && w.last != nil && w.last.exists():
		w.idle = time.AfterFunc(s.Linger, func() { s.drop(w) })
	default:
		s.end(w)
	}
}

// drop ends the watch of a class that nobody has retained meanwhile.
func (s *Source) drop(w *watched) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.count == 0 && s.watched[w.ref] == w {
		s.end(w)
	}
}

// end forgets a class. The caller holds the mutex.
func (s *Source) end(w *watched) {
	delete(s.watched, w.ref)
	w.charge.Release()
	if w.cancel != nil {
		w.cancel()
	}
}

// Run watches the classes that are retained until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.running != nil {
		s.mu.Unlock()
		return errors.New("class source: it is running already")
	}
	s.running = ctx
	for _, w := range s.watched {
		s.start(w)
	}
	s.mu.Unlock()

	<-ctx.Done()

	s.mu.Lock()
	s.running = nil
	for _, w := range s.watched {
		w.live, w.cancel = false, nil
		if w.idle != nil {
			w.idle.Stop()
		}
	}
	s.mu.Unlock()
	s.group.Wait()
	return nil
}

// start begins a watch if Run runs; else Run will.
func (s *Source) start(w *watched) {
	if s.running == nil {
		return
	}
	ctx, cancel := context.WithCancel(s.running)
	w.cancel = cancel
	s.group.Go(func() {
		defer cancel()
		s.follow(ctx, w)
	})
}

// follow keeps w current until ctx ends:
//
//  1. Without a version to watch from, list the class.
//  2. Watch from that version until the watch ends; take over the version
//     that it reached.
//  3. If the version was too old, drop it.
//  4. If the watch had lasted, or has just begun to fail for its version, go
//     on at once: servers end watches, and forget versions, now and then.
//  5. Else pause, longer each time, and go on.
func (s *Source) follow(ctx context.Context, w *watched) {
	version, failures := "", 0
	var before error
	for ctx.Err() == nil {
		var err error
		lasted := false
		if version == "" {
			version, err = s.sync(ctx, w)
		}
		if err == nil {
			version, lasted, err = s.stream(ctx, w, version)
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
		s.lost(ctx, w, err, before)
		s.wait(ctx, pause(failures, fault.RetryAfter(err), rand.Float64()), w.kick)
		before = err
	}
}

// sync brings w up to date by asking.
func (s *Source) sync(ctx context.Context, w *watched) (version string, err error) {
	s.setSyncing(w, true)
	defer s.setSyncing(w, false)
	found, err := s.look(ctx, w.ref)
	if err != nil {
		return "", err
	}
	s.take(ctx, w, found)
	return found.listed, nil
}

func (s *Source) setSyncing(w *watched, is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.syncing = is
}

// stream watches from a version, gives the one it reached, and tells whether
// it lasted long enough to count as a watch that works.
func (s *Source) stream(ctx context.Context, w *watched, version string) (reached string, lasted bool, err error) {
	began := s.now()
	events, stop, err := s.client.watch(ctx, w.ref, version)
	if err != nil {
		if !gone(err) {
			s.account(err)
		}
		return version, false, s.describe(w.ref, err)
	}
	s.account(nil)
	defer stop()
	s.resume(ctx, w)
	defer func() { lasted = s.now().Sub(began) >= steady }()
	for e := range events {
		object, ok := e.Object.(*v1.SecretProviderClass)
		switch {
		case e.Type == watch.Error || !ok:
			return version, false, s.describe(w.ref, apierrors.FromObject(e.Object))
		case object.ResourceVersion == "":
			return version, false, fault.New(fault.BadAnswer, "watching class %s: an event without a resource version", w.ref)
		}
		version = object.ResourceVersion
		if object.Name != w.ref.Name {
			continue
		}
		switch e.Type {
		case watch.Added, watch.Modified:
			s.take(ctx, w, s.parse(w.ref, object))
		case watch.Deleted:
			s.take(ctx, w, s.parse(w.ref, nil))
		}
	}
	return version, false, nil
}

// describe keeps what follow needs of a failed watch: the server's word on
// when to come back, and whether the version was too old.
func (s *Source) describe(ref class.Ref, err error) error {
	f := fault.New(reason(err), "watching class %s: %w", ref, err)
	if sec, ok := apierrors.SuggestsClientDelay(err); ok {
		f.RetryAfter = time.Duration(sec) * time.Second
	}
	return f
}

// resume notes that edits are noticed again.
func (s *Source) resume(ctx context.Context, w *watched) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.live = ctx.Err() == nil && w.last != nil
}

// take puts a newer state in force, and tells if it differs from the last.
func (s *Source) take(ctx context.Context, w *watched, now *snapshot) {
	s.mu.Lock()
	if ctx.Err() != nil || s.watched[w.ref] != w {
		s.mu.Unlock()
		return
	}
	last := w.last
	w.last, w.live = now, true
	s.mu.Unlock()
	s.charge(w, now)
	if last == nil || last.version != now.version {
		s.OnVersion(w.ref, now.usable())
	}
}

// lost notes that edits go unnoticed for now. That the API server does not
// answer is told once for all classes, by account; anything else once for
// this class, until it is something else.
func (s *Source) lost(ctx context.Context, w *watched, err, before error) {
	s.mu.Lock()
	w.live = false
	s.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	level := slog.LevelDebug
	if err != nil && !fault.Of(err).Outage() && (before == nil || fault.Of(err) != fault.Of(before)) {
		level = slog.LevelWarn
	}
	s.Logger.Log(ctx, level, "edits of a class are not noticed", logkey.Class, w.ref.String(), logkey.Error, err)
}

// parse makes a snapshot of an object, nil for none, and logs what it is
// warned of once for each version.
func (s *Source) parse(ref class.Ref, object *v1.SecretProviderClass) *snapshot {
	if object == nil {
		return &snapshot{err: absent(ref)}
	}
	c, warnings, err := s.parseSafely(ref, object)
	if len(warnings) > 0 && s.news(ref, object.ResourceVersion) {
		for _, w := range warnings {
			s.Logger.Warn("a class has a flaw", logkey.Class, ref.String(), logkey.Warning, w)
		}
	}
	return &snapshot{class: c, err: err, version: object.ResourceVersion}
}

// parseSafely has a panic over one class's text end in an error of that class.
func (s *Source) parseSafely(ref class.Ref, object *v1.SecretProviderClass) (c *class.Class, warnings []string, err error) {
	defer fault.Recover(&err, s.Logger, "parsing class "+ref.String())
	return class.Parse(object)
}

func (s *Source) news(ref class.Ref, version string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.warned[ref] == version {
		return false
	}
	if len(s.warned) >= maxWarned {
		clear(s.warned)
	}
	s.warned[ref] = version
	return true
}

// pause is how long to wait after so many failures: longer each time, never
// less than the server asked for, and not the same for every class. chance is
// from 0 to 1.
func pause(failures int, asked time.Duration, chance float64) time.Duration {
	return asked + backoff.Delay(firstPause, longestPause, failures-1, chance)
}

func wait(ctx context.Context, d time.Duration, wake <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-t.C:
	}
}
