// Package apisource takes classes from the Kubernetes API server. What it
// asks for follows the classes that this node's volumes use, however many the
// cluster has: one list of a single object to begin with, and one watch of it
// for as long as a volume uses it.
//
// The driver's service account needs the verbs list and watch on
// secretproviderclasses; a class is listed by its name rather than got, since
// only a list says from where to watch.
package apisource

import (
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
	defaultQPS     = 50
	defaultBurst   = 100
	defaultTimeout = 10 * time.Second
	// trustCopy is for how long after a failed call a class in use is taken
	// from memory without asking again: an API server that does not answer
	// must not make every refresh wait for it.
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
	// Linger is for how long a class stays in memory after its last Release:
	// pods that follow one another on a node need not ask for it each time.
	Linger time.Duration
	Logger *slog.Logger
	// Budget is the memory that classes are kept in, as a cache; nil refuses
	// nothing. A class that finds no room is asked for each time.
	Budget *budget.Budget
	// OnVersion is told the version of each retained class when it is seen for
	// the first time, and when it was created, edited or deleted since: empty if
	// there is no such class or it cannot be used. Many goroutines call it,
	// without a lock held, and what comes next for the same class waits for it.
	// It may be nil.
	OnVersion func(ref class.Ref, version string)
}

// Source gives the classes of a cluster.
type Source struct {
	Config

	client *client
	flight singleflight.Group
	now    func() time.Time
	// wait ends after d, or early for ctx or wake.
	wait func(ctx context.Context, d time.Duration, wake <-chan struct{})

	mu      sync.Mutex
	watched map[class.Ref]*watched
	warned  map[class.Ref]string // resource version
	// failedAt is when the API server last failed to answer; zero once it did.
	failedAt time.Time
	// running is Run's context while it runs, and group its goroutines.
	running context.Context
	group   sync.WaitGroup
}

// watched is a class that is retained.
type watched struct {
	ref    class.Ref
	count  int
	cancel context.CancelFunc // nil until its watch is started
	// kick cuts a pause short: the API server is known to answer again.
	kick chan struct{}
	// idle ends the watch of a class that nobody retains any longer.
	idle *time.Timer

	// syncing tells that a list is under way from which the watch will begin.
	syncing bool
	// last is what the class was when it was last seen, if it was, and charge
	// its memory.
	last   *snapshot
	charge *budget.Charge
	// live tells that edits are being noticed, so that last is current.
	live bool
}

// snapshot is a class as of one moment.
type snapshot struct {
	// class is nil if there is none, or it is invalid; err says so then. It is
	// nil without an error where there is no memory to keep it.
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

// New makes a Source, and calls nobody yet.
func New(c Config) (*Source, error) {
	if c.REST == nil {
		return nil, errors.New("class source: no API server is given")
	}
	if c.QPS <= 0 {
		c.QPS = defaultQPS
	}
	if c.Burst <= 0 {
		c.Burst = defaultBurst
	}
	if c.Timeout <= 0 {
		c.Timeout = defaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.OnVersion == nil {
		c.OnVersion = func(class.Ref, string) {}
	}
	client, err := newClient(c)
	if err != nil {
		return nil, fmt.Errorf("class source: %w", err)
	}
	return &Source{
		Config: c, client: client, now: time.Now, wait: wait,
		watched: map[class.Ref]*watched{}, warned: map[class.Ref]string{},
	}, nil
}

// Get finds a class. A retained one whose watch is open comes from memory; so
// does a retained one that cannot be asked for. Every other is asked for, by
// one request for all who want it at the time.
func (s *Source) Get(ctx context.Context, ref class.Ref) (*class.Class, error) {
	if err := checkRef(ref); err != nil {
		return nil, err
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
		s.account(err) // it may not have been waited for to the end
		s.Logger.Debug("a class is taken from memory", logkey.Class, ref.String(), logkey.Error, err)
		return last.class, last.err
	}
	return nil, err
}

// remembered is the class in memory, and whether it is as good as asking. A
// class that is gone is not remembered: a pod waits for it, and it may have
// been created just now.
func (s *Source) remembered(ref class.Ref) (last *snapshot, current bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watched[ref]
	if w == nil || w.last == nil || !w.last.exists() || w.last.class == nil && w.last.err == nil {
		return nil, false
	}
	return w.last, w.live || s.now().Sub(s.failedAt) < trustCopy
}

// look asks for a class, together with everybody else who wants it now.
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

// list asks for a class, and keeps account of whether there are answers.
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

// account notes whether the API server answers, and says so when that
// changes. Once it does again, nobody needs to wait any longer.
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
		for _, w := range s.watched {
			select {
			case w.kick <- struct{}{}:
			default:
			}
		}
	}
}

// seen takes what a Get found for a retained class that was not seen before.
// Edits from then on are told. Where the watch is about to begin from the same
// answer, or from a later one, nobody else has to ask.
func (s *Source) seen(ref class.Ref, found *snapshot) {
	s.mu.Lock()
	w := s.watched[ref]
	first := w != nil && w.last == nil
	if first {
		w.last, w.live = found, w.syncing
	}
	s.mu.Unlock()
	if first {
		s.charge(w, found)
		s.OnVersion(ref, found.usable())
	}
}

// checkRef refuses names that no class can have, which a pod may well ask for.
func checkRef(ref class.Ref) error {
	if err := validRef(ref); err != nil {
		return fault.New(fault.ClassNotFound, failedText, ref, err)
	}
	return nil
}
