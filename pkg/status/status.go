// Package status reports on volumes through the API server: with Events on the pod, and with a
// SecretProviderClassPodStatus per volume.
//
// Observe returns at once. The Reporter coalesces what it has to write per volume, writes only
// changes, and limits how often it writes frequent changes. All writes of the node share one rate
// of requests and one of bytes, in which the namespaces take turns. No volume ever waits for it.
package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/time/rate"
	"k8s.io/client-go/util/workqueue"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient/corev1"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// API is the part of the API server that the Reporter needs.
type API interface {
	CreateEvent(ctx context.Context, e *corev1.Event) (*corev1.Event, error)
	// UpdateEvent writes the count, time and message of an Event again.
	UpdateEvent(ctx context.Context, e *corev1.Event) (*corev1.Event, error)
	// ListStatuses finds the statuses of a node, by the value of its label.
	ListStatuses(ctx context.Context, node string) ([]v1.SecretProviderClassPodStatus, error)
	GetStatus(ctx context.Context, namespace, name string) (*v1.SecretProviderClassPodStatus, error)
	CreateStatus(ctx context.Context, s *v1.SecretProviderClassPodStatus) (*v1.SecretProviderClassPodStatus, error)
	UpdateStatus(ctx context.Context, s *v1.SecretProviderClassPodStatus) (*v1.SecretProviderClassPodStatus, error)
	DeleteStatus(ctx context.Context, s *v1.SecretProviderClassPodStatus) error
}

// Config has the settings of a Reporter.
type Config struct {
	API    API
	Logger *slog.Logger
	// Driver and Node are the source of the reports.
	Driver, Node string
	// QPS and Burst bound the writes of this node.
	QPS   float64
	Burst int
	// RotatedEvents writes an Event for every rotation.
	RotatedEvents bool
}

// Reporter implements volume.Observer.
type Reporter struct {
	Config
	queue    queue
	statuses *statuses
	events   *events
}

type queue = workqueue.TypedRateLimitingInterface[task]

// task names what a worker has to write.
type task struct {
	kind      taskKind
	namespace string // takes turns with others
	key       string
}

type taskKind int

const (
	writeStatus taskKind = iota
	writeEvent
)

// New starts nothing.
func New(c Config) (*Reporter, error) {
	switch {
	case c.API == nil, c.Logger == nil:
		return nil, errors.New("status: API and Logger must be set")
	case c.QPS <= 0, c.Burst <= 0:
		return nil, fmt.Errorf("status: QPS (%v) and Burst (%d) must be above zero", c.QPS, c.Burst)
	}
	c.API = &limited{c.API, rate.NewLimiter(rate.Limit(c.QPS), c.Burst), rate.NewLimiter(bytesPerSecond, bytesBurst)}
	r := &Reporter{Config: c, queue: newQueue()}
	r.statuses = &statuses{Config: &r.Config, queue: r.queue, volumes: map[string]*volumeState{}}
	r.events = &events{
		Config: &r.Config, queue: r.queue, messages: map[string]*message{},
		ofVolume: newBuckets(volumeEventsEvery, volumeEventsBurst), ofNamespace: newBuckets(namespaceEventsEvery, namespaceEventsBurst),
	}
	return r, nil
}

// workers is how many requests may wait for the API server at once.
const workers = 2

// Run writes until ctx ends.
func (r *Reporter) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, r.queue.ShutDown)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { r.statuses.removeOrphans(ctx) })
	for range workers {
		wg.Go(func() {
			for r.next(ctx) {
			}
		})
	}
	wg.Wait()
	return nil
}

func (r *Reporter) next(ctx context.Context) bool {
	t, down := r.queue.Get()
	if down {
		return false
	}
	defer r.queue.Done(t)
	var err error
	switch t.kind {
	case writeStatus:
		err = r.statuses.sync(ctx, t)
	case writeEvent:
		err = r.events.send(ctx, t)
	}
	r.finish(t, err)
	return true
}

// maxTries bounds the attempts of one write: a late Event has no value, and a status is written
// again at the next change.
const maxTries = 12

func (r *Reporter) finish(t task, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		r.queue.Forget(t)
		return
	}
	if tries := r.queue.NumRequeues(t); tries == 0 {
		r.Logger.Warn("reporting to the API server failed, trying again", logkey.What, t.String(), logkey.Error, err)
	} else if tries >= maxTries {
		r.Logger.Error("giving up on reporting to the API server", logkey.What, t.String(), logkey.Error, err)
		r.queue.Forget(t)
		return
	}
	r.queue.AddRateLimited(t)
}

func (t task) String() string {
	if t.kind == writeEvent {
		return "Event " + t.key
	}
	return "SecretProviderClassPodStatus of volume " + t.key
}

// Observe implements volume.Observer.
func (r *Reporter) Observe(o volume.Outcome) {
	r.statuses.observe(o)
	r.events.observe(o)
}

// Tell writes an Event at once the first time, and then with growing pauses while it repeats.
func (r *Reporter) Tell(n Note) { r.events.tell(n) }
