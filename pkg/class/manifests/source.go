// Package manifests reads classes from a directory of manifests, for machines without
// an API server: edge nodes, demonstrations, tests.
//
// It reads the files *.yaml, *.yml and *.json of the directory itself, which may be
// symlinks, as in a mounted ConfigMap. A file that it cannot read affects no class of
// another file, and its own classes stay as they were last read.
package manifests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

const (
	defaultRescan   = 30 * time.Second
	defaultDebounce = 100 * time.Millisecond
)

// Config says where the classes are.
type Config struct {
	// Dir is the directory of manifests.
	Dir    string
	Logger *slog.Logger
	// OnVersion is called with the version of each retained class when the directory
	// has been read for the first time, and after the class is created, edited or
	// deleted: empty if there is no such class or it cannot be used. Run calls it, one
	// call at a time, without a lock. It may be nil.
	OnVersion func(ref class.Ref, version string)
	// Rescan is the time between two reads of the directory for edits of which the
	// kernel sends no event: behind a symlink, on a network file system. Default 30s.
	Rescan time.Duration
	// Debounce is how long Run waits after the last event of an edit. Default 100ms.
	Debounce time.Duration
}

// Source reads the classes of a directory.
type Source struct {
	Config

	// begun counts the scans, including one that runs.
	begun atomic.Int64
	// wake has a value when versions is not empty.
	wake chan struct{}

	mu       sync.Mutex
	files    map[string]*file
	index    index
	known    bool  // the directory has been read
	scanned  error // of the last scan
	retained map[class.Ref]int
	versions map[class.Ref]string // for the next calls of OnVersion
}

// New makes a Source. It reads nothing yet.
func New(c Config) (*Source, error) {
	if c.Dir == "" {
		return nil, errors.New("class directory: no path is given")
	}
	info, err := os.Stat(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("class directory: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("class directory: %s is not a directory", c.Dir)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.OnVersion == nil {
		c.OnVersion = func(class.Ref, string) {}
	}
	if c.Rescan <= 0 {
		c.Rescan = defaultRescan
	}
	if c.Debounce <= 0 {
		c.Debounce = defaultDebounce
	}
	return &Source{
		Config: c, wake: make(chan struct{}, 1),
		files: map[string]*file{}, index: index{}, retained: map[class.Ref]int{}, versions: map[class.Ref]string{},
	}, nil
}

// Get returns a class as it is in the directory now.
func (s *Source) Get(ctx context.Context, ref class.Ref) (*class.Class, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("getting class %s: %w", ref, err)
	}
	s.refresh()
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.index[ref]; ok {
		return e.class, e.err
	}
	return nil, s.missing(ref)
}

// Retain has OnVersion called for the class until Release is called as often.
func (s *Source) Retain(ref class.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retained[ref]++
}

// Release ends one Retain.
func (s *Source) Release(ref class.Ref) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retained[ref]--; s.retained[ref] <= 0 {
		delete(s.retained, ref)
		delete(s.versions, ref)
	}
}

// Run notices edits until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		// The node may be out of inotify instances. The rescan still works.
		s.Logger.Warn("edits of the class directory will be noticed late", logkey.Dir, s.Dir, logkey.Rescan, s.Rescan, logkey.Error, err)
		s.loop(ctx, func() {}, nil, nil)
		return nil
	}
	defer func() { _ = watcher.Close() }()
	s.loop(ctx, func() { s.watch(watcher) }, watcher.Events, watcher.Errors)
	return nil
}

func (s *Source) loop(ctx context.Context, watch func(), events <-chan fsnotify.Event, lost <-chan error) {
	rescan := time.NewTicker(s.Rescan)
	defer rescan.Stop()
	watch()
	debounce := time.NewTimer(0) // the first scan, after the watch is set
	defer debounce.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			debounce.Reset(s.Debounce)
		case err := <-lost:
			s.Logger.Warn("lost events of the class directory", logkey.Dir, s.Dir, logkey.Error, err)
			debounce.Reset(s.Debounce)
		case <-debounce.C:
			s.refresh()
		case <-rescan.C:
			watch()
			s.refresh()
		case <-s.wake:
			s.tell()
		}
	}
}

// watch subscribes to events, also after the directory was replaced. If that fails, the
// next rescan notices an edit.
func (s *Source) watch(w *fsnotify.Watcher) {
	if err := w.Add(s.Dir); err != nil {
		s.Logger.Debug("cannot watch the class directory", logkey.Dir, s.Dir, logkey.Error, err)
	}
}

// tell calls OnVersion for the classes that are new or have changed.
func (s *Source) tell() {
	s.mu.Lock()
	versions := s.versions
	s.versions = map[class.Ref]string{}
	s.mu.Unlock()
	for ref, version := range versions {
		s.OnVersion(ref, version)
	}
}
