// Package kube reads classes from the Kubernetes API server. It asks only for the
// classes that this node's volumes use: it lists each of them once, by its name, and
// watches it for as long as a volume uses it.
//
// The driver's service account needs the verbs list and watch on
// secretproviderclasses; a class is listed by its name rather than got, since
// only a list says from where to watch.
package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"k8s.io/client-go/rest"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

const (
	// trustCopy is for how long after a failed call Get takes a retained class from
	// memory: otherwise every refresh would wait for an API server that does not
	// answer.
	trustCopy = 5 * time.Second
	// retryTimeout bounds the attempt after that, where there is a copy.
	retryTimeout = 2 * time.Second
)

// Config says how to reach the API server.
type Config struct {
	// REST is the API server's address and the driver's credentials. Its
	// rate limits and its timeout are not used.
	REST *rest.Config
	// QPS and Burst bound the requests per second; by default 50 and 100.
	QPS   float32
	Burst int
	// Timeout bounds one request, other than a watch once it is open. By
	// default 10s.
	Timeout time.Duration
	// Linger is for how long a class stays in memory after its last Release, so that
	// a pod that follows another does not ask for it again.
	Linger time.Duration
	Logger *slog.Logger
	// Budget bounds the memory of the classes, as a cache; nil for no bound. A class
	// for which it has no room is asked for each time.
	Budget *budget.Budget
	// OnVersion is called with the version of a retained class when the class is
	// first seen, and after it is created, edited or deleted: empty if there is no
	// such class or it cannot be used. Many goroutines call it, without a lock, and
	// one at a time for each class. It may be nil.
	OnVersion func(ref class.Ref, version string)
}

// Source reads the classes of a cluster.
type Source struct {
	Config

	client *client
	flight singleflight.Group
	now    func() time.Time
	// wait ends after d, or early for ctx or wake.
	wait func(ctx context.Context, d time.Duration, wake <-chan struct{})

	mu       sync.Mutex
	watchers map[class.Ref]*watcher
	warned   map[class.Ref]string // resource version
	// failedAt is when the API server last failed to answer; zero once it did.
	failedAt time.Time
	// running is Run's context while it runs, and group its goroutines.
	running context.Context
	group   sync.WaitGroup
}

// snapshot is a class as of one moment.
type snapshot struct {
	// class is nil if there is none or it is invalid, and err says so. Both are nil if
	// the budget has no room for the class.
	class *class.Class
	err   error
	// version is the object's, empty if there is none.
	version string
	// listed is the version of the list it was seen in, to watch from.
	listed string
}

func (s *snapshot) exists() bool { return s.version != "" }

// usable is the version of a class that can be used, else empty.
func (s *snapshot) usable() string {
	if s.err != nil {
		return ""
	}
	return s.version
}

// New makes a Source. It sends no request.
func New(c Config) (*Source, error) {
	if c.REST == nil {
		return nil, errors.New("class source: no API server is given")
	}
	if c.QPS <= 0 {
		c.QPS = 50
	}
	if c.Burst <= 0 {
		c.Burst = 100
	}
	if c.Timeout <= 0 {
		c.Timeout = 10 * time.Second
	}
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	if c.OnVersion == nil {
		c.OnVersion = func(class.Ref, string) {}
	}
	client, err := newClient(c)
	if err != nil {
		return nil, fmt.Errorf("class source: %w", err)
	}
	return &Source{
		Config: c, client: client, now: time.Now, wait: wait,
		watchers: map[class.Ref]*watcher{}, warned: map[class.Ref]string{},
	}, nil
}

// Get returns a class: from memory if it is retained and its watch is open, or if it is
// retained and the API server does not answer; otherwise from the API server, with one
// request for all callers that want it at the time.
func (s *Source) Get(ctx context.Context, ref class.Ref) (*class.Class, error) {
	if err := validRef(ref); err != nil {
		return nil, fault.New(fault.ClassNotFound, failedText, ref, err)
	}
	last, current := s.remembered(ref)
	if current {
		return last.class, last.err
	}
	asking := ctx
	if last != nil {
		var cancel context.CancelFunc
		asking, cancel = context.WithTimeout(ctx, retryTimeout)
		defer cancel()
	}
	found, err := s.look(asking, ref)
	switch {
	case err == nil:
		s.seen(ref, found)
		return found.class, found.err
	case last != nil && ctx.Err() == nil:
		s.account(err) // the request may still be running
		s.Logger.Debug("a class is taken from memory", logkey.Class, ref.String(), logkey.Error, err)
		return last.class, last.err
	}
	return nil, err
}

// remembered returns the class in memory, and whether it is current. It does not
// return the absence of a class: a pod waits for the class, which may have just been
// created.
func (s *Source) remembered(ref class.Ref) (last *snapshot, current bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watchers[ref]
	if w == nil || w.last == nil || !w.last.exists() || w.last.class == nil && w.last.err == nil {
		return nil, false
	}
	return w.last, w.live || s.now().Sub(s.failedAt) < trustCopy
}

// look asks for a class, with one request for all callers that want it now.
func (s *Source) look(ctx context.Context, ref class.Ref) (*snapshot, error) {
	for again := true; ; again = false {
		answer := s.flight.DoChan(ref.String(), func() (any, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.Timeout)
			defer cancel()
			return s.list(ctx, ref)
		})
		select {
		case <-ctx.Done():
			return nil, failed(ref, ctx.Err())
		case a := <-answer:
			found, _ := a.Val.(*snapshot)
			if a.Err == nil && !found.exists() && a.Shared && again {
				continue // the request may be older than the class
			}
			return found, a.Err
		}
	}
}

// list sends the request for a class, and records whether the API server answers.
func (s *Source) list(ctx context.Context, ref class.Ref) (*snapshot, error) {
	object, listed, err := s.client.list(ctx, ref)
	s.account(err)
	if err != nil {
		return nil, failed(ref, err)
	}
	found := s.parse(ref, object)
	found.listed = listed
	return found, nil
}

// account records whether the API server answers, and logs a change. When it answers
// again, all watchers end their pauses.
func (s *Source) account(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	failing := !s.failedAt.IsZero()
	switch reason(err) {
	case fault.Unavailable, fault.Timeout:
		s.failedAt = s.now()
		if !failing {
			s.Logger.Warn("the API server does not answer; classes in use stay as they are", logkey.Error, err)
		}
	case "":
		if !failing {
			return
		}
		s.failedAt = time.Time{}
		s.Logger.Info("the API server answers again")
		for _, w := range s.watchers {
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
	}
}

// seen records what a Get found for a retained class that was not seen before.
// OnVersion is called for edits after that. If the watcher is listing the class, its
// watch will begin from this answer or a later one, so the class is current.
func (s *Source) seen(ref class.Ref, found *snapshot) {
	s.mu.Lock()
	w := s.watchers[ref]
	first := w != nil && w.last == nil
	if first {
		w.last, w.live = found, w.syncing
	}
	s.mu.Unlock()
	if first {
		w.setCharge(found)
		s.OnVersion(ref, found.usable())
	}
}
