package status_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient/corev1"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/status"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// apiServer stores objects as the API server does: names are unique, writes need the current
// resource version.
type apiServer struct {
	mu       sync.Mutex
	statuses map[string]*v1.SecretProviderClassPodStatus
	events   map[string]*corev1.Event
	writes   int
	requests int
	lists    int
	version  int
	down     bool
	// missing is a namespace that is gone; tries are those to write an Event into it.
	missing string
	tries   int
}

func newServer() *apiServer {
	return &apiServer{statuses: map[string]*v1.SecretProviderClassPodStatus{}, events: map[string]*corev1.Event{}}
}

var statusResource = schema.GroupResource{Group: v1.GroupName, Resource: v1.SecretProviderClassPodStatusResource}

func (a *apiServer) begin() (func(), error) {
	a.mu.Lock()
	if a.down {
		a.mu.Unlock()
		return nil, errors.New("connection refused")
	}
	a.version++
	a.requests++
	return a.mu.Unlock, nil
}

func (a *apiServer) countEvents() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.events)
}

// countEventsOf counts those of one namespace.
func (a *apiServer) countEventsOf(namespace string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.events {
		if e.Namespace == namespace {
			n++
		}
	}
	return n
}

func (a *apiServer) countWrites() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.writes
}

func (a *apiServer) CreateEvent(_ context.Context, e *corev1.Event) (*corev1.Event, error) {
	end, err := a.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if a.missing != "" && e.Namespace == a.missing {
		a.tries++
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, e.Namespace)
	}
	a.writes++
	out := e.DeepCopy()
	out.ResourceVersion = fmt.Sprint(a.version)
	a.events[e.Name] = out
	return out, nil
}

func (a *apiServer) UpdateEvent(ctx context.Context, e *corev1.Event) (*corev1.Event, error) {
	a.mu.Lock()
	have, ok := a.events[e.Name]
	a.mu.Unlock()
	if !ok || have.ResourceVersion != e.ResourceVersion {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "events"}, e.Name)
	}
	return a.CreateEvent(ctx, e)
}

func (a *apiServer) ListStatuses(_ context.Context, node string) ([]v1.SecretProviderClassPodStatus, error) {
	end, err := a.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	a.lists++
	var out []v1.SecretProviderClassPodStatus
	for _, s := range a.statuses {
		if s.Labels[v1.NodeLabel] == node {
			out = append(out, *s.DeepCopy())
		}
	}
	return out, nil
}

func (a *apiServer) GetStatus(_ context.Context, _, name string) (*v1.SecretProviderClassPodStatus, error) {
	end, err := a.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if s, ok := a.statuses[name]; ok {
		return s.DeepCopy(), nil
	}
	return nil, apierrors.NewNotFound(statusResource, name)
}

func (a *apiServer) CreateStatus(_ context.Context, s *v1.SecretProviderClassPodStatus) (*v1.SecretProviderClassPodStatus, error) {
	end, err := a.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	if _, ok := a.statuses[s.Name]; ok {
		return nil, apierrors.NewAlreadyExists(statusResource, s.Name)
	}
	return a.put(s), nil
}

func (a *apiServer) UpdateStatus(_ context.Context, s *v1.SecretProviderClassPodStatus) (*v1.SecretProviderClassPodStatus, error) {
	end, err := a.begin()
	if err != nil {
		return nil, err
	}
	defer end()
	have, ok := a.statuses[s.Name]
	if !ok {
		return nil, apierrors.NewNotFound(statusResource, s.Name)
	}
	if have.ResourceVersion != s.ResourceVersion {
		return nil, apierrors.NewConflict(statusResource, s.Name, errors.New("stale"))
	}
	return a.put(s), nil
}

func (a *apiServer) put(s *v1.SecretProviderClassPodStatus) *v1.SecretProviderClassPodStatus {
	a.writes++
	out := s.DeepCopy()
	out.ResourceVersion = fmt.Sprint(a.version)
	if out.UID == "" {
		out.UID = types.UID(fmt.Sprintf("uid-%d", a.version))
	}
	a.statuses[s.Name] = out
	return out.DeepCopy()
}

func (a *apiServer) DeleteStatus(_ context.Context, s *v1.SecretProviderClassPodStatus) error {
	end, err := a.begin()
	if err != nil {
		return err
	}
	defer end()
	if have, ok := a.statuses[s.Name]; !ok || have.UID != s.UID {
		return apierrors.NewNotFound(statusResource, s.Name)
	}
	a.writes++
	delete(a.statuses, s.Name)
	return nil
}

// bubble runs a Reporter against the server in synctest's time.
func bubble(t *testing.T, change func(*status.Config), test func(t *testing.T, a *apiServer, r *status.Reporter)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := newServer()
		c := status.Config{API: a, Logger: slog.New(slog.DiscardHandler), Driver: "secrets-store.csi.k8s.io", Node: "node-1", QPS: 1000, Burst: 1000}
		if change != nil {
			change(&c)
		}
		r := testkit.Value(status.New(c))(t)
		stop := testkit.Background(t, r.Run)
		test(t, a, r)
		stop()
	})
}

func outcome(kind volume.Kind, pod, className string, err error, versions ...string) volume.Outcome {
	o := volume.Outcome{
		Kind: kind,
		Identity: volume.Identity{
			ID: "csi-" + pod + "/" + className, Target: "/pods/" + pod,
			Pod:   identity.Pod{Namespace: "shop", Name: pod, UID: "uid-" + pod, ServiceAccount: "web"},
			Class: class.Ref{Namespace: "shop", Name: className},
		},
		Provider: "vault", Err: err,
	}
	for i, v := range versions {
		o.Versions = append(o.Versions, provider.Version{ID: fmt.Sprintf("o%d", i), Version: v})
	}
	return o
}

// waitIdle lets everything happen that does not wait for time.
func waitIdle() { time.Sleep(100 * time.Millisecond); synctest.Wait() }

func TestOneWriteAtFirstAndNoneWithoutChange(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		r.Observe(outcome(volume.Published, "web-0", "db", nil, "3"))
		waitIdle()
		testkit.Equal(t, "writes for a first publish", a.writes, 1)
		s := a.statuses["web-0-shop-db"]
		if s == nil || !s.Status.Mounted || s.Status.TargetPath != "/pods/web-0" || s.Labels[v1.NodeLabel] != "node-1" ||
			len(s.OwnerReferences) != 1 || s.OwnerReferences[0].UID != "uid-web-0" || len(s.Status.Objects) != 1 || s.Status.Objects[0].Version != "3" {
			t.Fatalf("the API server has %+v", s)
		}
		for range 10 {
			r.Observe(outcome(volume.Refreshed, "web-0", "db", nil, "3"))
			waitIdle()
		}
		testkit.Equal(t, "writes after unchanged refreshes", a.writes, 1)
		r.Observe(outcome(volume.Refreshed, "web-0", "db", nil, "4"))
		waitIdle()
		if a.writes != 2 || a.statuses["web-0-shop-db"].Status.Objects[0].Version != "4" {
			t.Errorf("%d writes after a rotation, want 2", a.writes)
		}
		r.Observe(outcome(volume.Unpublished, "web-0", "db", nil))
		waitIdle()
		testkit.Equal(t, "the status outlives the volume", len(a.statuses), 0)
	})
}

func TestNamesDoNotCollide(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		r.Observe(outcome(volume.Published, "a", "x-shop-b", nil, "1"))
		waitIdle()
		r.Observe(outcome(volume.Published, "a-shop-x", "b", nil, "2"))
		waitIdle()
		if len(a.statuses) != 2 {
			t.Fatalf("%d objects for two volumes", len(a.statuses))
		}
		testkit.Equal(t, "the second volume took the first one's object", a.statuses["a-shop-x-shop-b"].Status.PodName, "a")
		r.Observe(outcome(volume.Unpublished, "a-shop-x", "b", nil))
		waitIdle()
		if len(a.statuses) != 1 || a.statuses["a-shop-x-shop-b"] == nil {
			t.Error("the wrong object was deleted")
		}
		long := strings.Repeat("p", 200)
		r.Observe(outcome(volume.Published, long, strings.Repeat("c", 200), nil, "1"))
		r.Observe(outcome(volume.Published, long, strings.Repeat("c", 201), nil, "1"))
		waitIdle()
		testkit.Equal(t, "objects: names over 253 characters need a suffix each", len(a.statuses), 3)
		for name := range a.statuses {
			if len(name) > 253 {
				t.Errorf("a name of %d characters", len(name))
			}
		}
	})
}

func TestFailureEpisode(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		r.Observe(outcome(volume.Published, "web-0", "db", nil, "3"))
		waitIdle()
		for i := range 20 {
			err := fault.New(fault.Unavailable, "Vault is sealed (request %d)", i)
			if i%2 == 1 {
				err = fault.New(fault.Unavailable, "%w (not asked again yet)", err)
				err.NotAsked = true
			}
			o := outcome(volume.Refreshed, "web-0", "db", err, "3")
			o.Failures = i + 1
			r.Observe(o)
			waitIdle()
		}
		s := a.statuses["web-0-shop-db"]
		if s.Annotations[names.ReasonAnnotation] != "Unavailable" || !strings.Contains(s.Annotations[names.MessageAnnotation], "Vault is sealed") || !s.Status.Mounted {
			t.Errorf("the failing volume's status is %+v", s)
		}
		if len(a.events) != 1 || a.writes != 3 {
			t.Errorf("%d events, %d writes: want one event and one status write for the episode", len(a.events), a.writes)
		}
		recovered := outcome(volume.Refreshed, "web-0", "db", nil, "3")
		recovered.Failures = 20
		r.Observe(recovered)
		waitIdle()
		testkit.Equal(t, "annotations after the recovery", len(a.statuses["web-0-shop-db"].Annotations), 0)
		reasons := map[string]int{}
		for _, e := range a.events {
			reasons[e.Reason]++
		}
		if reasons[names.RefreshFailed] != 1 || reasons[names.Recovered] != 1 {
			t.Errorf("events %v", reasons)
		}
	})
}

func TestRecordSetAside(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		for i := range 3 {
			file := fmt.Sprintf("/state/%d.json.corrupt", i)
			r.Observe(volume.Outcome{Kind: volume.SetAside, SetAside: file, Err: fault.New(fault.State, "a volume's record cannot be read and was set aside as %s", file)})
		}
		waitIdle()
		o := outcome(volume.Published, "web-0", "db", nil, "3")
		o.SetAside = "/state/1.json.corrupt"
		r.Observe(o)
		waitIdle()
		a.mu.Lock() // the next write comes by the clock alone
		if len(a.events) != 2 || a.requests != 3 {
			t.Fatalf("%d events by %d requests, want one on the node, one on the pod and a status", len(a.events), a.requests)
		}
		for _, e := range a.events {
			about := e.InvolvedObject
			if e.Reason != names.RecordSetAside || e.Type != corev1.EventTypeWarning || !strings.Contains(e.Message, ".json.corrupt") {
				t.Errorf("event %+v", e)
			}
			switch about.Kind {
			case "Node":
				if about.Name != "node-1" || about.UID != "node-1" || about.Namespace != "" || e.Namespace != "default" {
					t.Errorf("the node's event is %+v", e)
				}
			case "Pod":
				if about.UID != "uid-web-0" || e.Namespace != "shop" {
					t.Errorf("the pod's event is %+v", e)
				}
			}
		}
		a.mu.Unlock()
		// The first write may have been before the others were told.
		time.Sleep(2 * time.Minute)
		waitIdle()
		for _, e := range a.events {
			testkit.Equal(t, "times on the "+e.InvolvedObject.Kind, e.Count, map[string]int32{"Node": 3, "Pod": 1}[e.InvolvedObject.Kind])
		}
		before := a.requests
		if before > 4 {
			t.Errorf("%d requests, want at most one more", before)
		}
		r.Observe(outcome(volume.Refreshed, "web-0", "db", nil, "3"))
		waitIdle()
		testkit.Equal(t, "requests, and none where nothing was set aside", a.requests, before)
	})
}

// A pod that got last good content has it in its status until a read from the store succeeds.
func TestLastGoodIsVisible(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		asOf := time.Now().Add(-time.Minute)
		want := asOf.UTC().Format(time.RFC3339)
		annotation := func() string { return a.statuses["web-0-shop-db"].Annotations[names.AsOfAnnotation] }
		o := outcome(volume.Published, "web-0", "db", nil, "3")
		o.AsOf = asOf
		r.Observe(o)
		waitIdle()
		if annotation() != want || len(a.events) != 1 {
			t.Errorf("the annotation is %q, %d events", annotation(), len(a.events))
		}
		o = outcome(volume.Refreshed, "web-0", "db", fault.New(fault.Unavailable, "sealed"), "3")
		o.AsOf, o.Failures = asOf, 1
		r.Observe(o)
		waitIdle()
		testkit.Equal(t, "the annotation after a failed refresh", annotation(), want)
		r.Observe(outcome(volume.Refreshed, "web-0", "db", nil, "3"))
		waitIdle()
		testkit.Equal(t, "the annotation after a good refresh", annotation(), "")
	})
}

func TestRepeatedEventsAreCountedAndGrowSeldom(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		for range 60 { // kubelet tries again every two minutes
			r.Observe(outcome(volume.Published, "web-0", "db", fault.New(fault.Denied, "service account name not authorized").WithHint("bind it")))
			time.Sleep(2 * time.Minute)
		}
		synctest.Wait()
		if len(a.events) != 1 || a.writes > 8 {
			t.Fatalf("%d events, %d writes: want one event, ever more seldom written", len(a.events), a.writes)
		}
		for _, e := range a.events {
			if e.Reason != names.MountFailed || e.Type != corev1.EventTypeWarning || e.InvolvedObject.UID != "uid-web-0" || e.Count < 10 || !strings.Contains(e.Message, "bind it") {
				t.Errorf("event %+v", e)
			}
		}
	})
}

func TestRotatedEventsAreOptional(t *testing.T) {
	for _, on := range []bool{false, true} {
		bubble(t, func(c *status.Config) { c.RotatedEvents = on }, func(t *testing.T, a *apiServer, r *status.Reporter) {
			r.Observe(outcome(volume.Published, "web-0", "db", nil, "3"))
			o := outcome(volume.Refreshed, "web-0", "db", nil, "4")
			o.Changed = true
			r.Observe(o)
			waitIdle()
			testkit.Equal(t, "rotated events", len(a.events) == 1, on)
		})
	}
}

func TestAPIServerDownThenBack(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		a.mu.Lock()
		a.down = true
		a.mu.Unlock()
		for i := range 50 {
			r.Observe(outcome(volume.Published, fmt.Sprintf("p%d", i), "db", nil, "1"))
		}
		time.Sleep(30 * time.Second)
		a.mu.Lock()
		a.down = false
		a.mu.Unlock()
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if len(a.statuses) != 50 || a.writes != 50 {
			t.Errorf("%d objects by %d writes, want 50 by 50", len(a.statuses), a.writes)
		}
	})
}

func TestLongMessagesAreClipped(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		r.Observe(outcome(volume.Published, "web-0", "db", fault.New(fault.Rejected, "%s", strings.Repeat("ü", 2000))))
		waitIdle()
		for _, e := range a.events {
			if len(e.Message) > 1024 || strings.ContainsRune(e.Message, '\ufffd') {
				t.Errorf("a message of %d bytes: %q", len(e.Message), e.Message)
			}
		}
	})
}
