package kube

import (
	"context"
	"errors"
	"time"

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

// Retain keeps a class in memory and calls OnVersion after its edits, until Release is
// called as often. Call it before Get: an edit between a Get and a later Retain is not
// noticed.
func (s *Source) Retain(ref class.Ref) {
	if validRef(ref) != nil {
		return // Get refuses it
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watchers[ref]
	if w == nil {
		w = &watcher{Source: s, ref: ref, wake: make(chan struct{}, 1)}
		s.watchers[ref] = w
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
	w := s.watchers[ref]
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

// drop stops a watcher, unless its class was retained meanwhile.
func (s *Source) drop(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.count == 0 && s.watchers[w.ref] == w {
		s.end(w)
	}
}

// end stops a watcher and forgets its class. The caller holds the mutex.
func (s *Source) end(w *watcher) {
	delete(s.watchers, w.ref)
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
	for _, w := range s.watchers {
		s.start(w)
	}
	s.mu.Unlock()

	<-ctx.Done()

	s.mu.Lock()
	s.running = nil
	for _, w := range s.watchers {
		w.live, w.cancel = false, nil
		if w.idle != nil {
			w.idle.Stop()
		}
	}
	s.mu.Unlock()
	s.group.Wait()
	return nil
}

// start starts a watcher if Run is running; otherwise Run will start it. The caller
// holds the mutex.
func (s *Source) start(w *watcher) {
	if s.running == nil {
		return
	}
	ctx, cancel := context.WithCancel(s.running)
	w.cancel = cancel
	s.group.Go(func() {
		defer cancel()
		w.run(ctx)
	})
}

// parse makes a snapshot of an object, nil for none, and logs its warnings once for
// each version.
func (s *Source) parse(ref class.Ref, object *v1.SecretProviderClass) *snapshot {
	if object == nil {
		return &snapshot{err: absent(ref)}
	}
	c, warnings, err := s.parseSafely(ref, object)
	if len(warnings) > 0 && s.firstWarning(ref, object.ResourceVersion) {
		for _, w := range warnings {
			s.Logger.Warn("a class has a flaw", logkey.Class, ref.String(), logkey.Warning, w)
		}
	}
	return &snapshot{class: c, err: err, version: object.ResourceVersion}
}

// parseSafely returns a panic as an error of the class.
func (s *Source) parseSafely(ref class.Ref, object *v1.SecretProviderClass) (c *class.Class, warnings []string, err error) {
	defer fault.Recover(&err, s.Logger, "parsing class "+ref.String())
	return class.Parse(object)
}

// firstWarning reports whether no warning of this version was logged yet.
func (s *Source) firstWarning(ref class.Ref, version string) bool {
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

// pause is the wait after so many failures: longer each time, at least as long as the
// server asked for, and different for each class. chance is from 0 to 1.
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
