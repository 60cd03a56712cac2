package status_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient/corev1"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/status"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// weighed counts the bytes written to etcd, by namespace.
type weighed struct {
	*apiServer
	mu    sync.Mutex
	bytes map[string]int
	most  int
}

func (w *weighed) weigh(namespace string, object any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	text, _ := json.Marshal(object)
	w.bytes[namespace] += len(text)
	w.most = max(w.most, len(text))
}

func (w *weighed) CreateStatus(ctx context.Context, s *v1.SecretProviderClassPodStatus) (*v1.SecretProviderClassPodStatus, error) {
	w.weigh(s.Namespace, s)
	return w.apiServer.CreateStatus(ctx, s)
}

func (w *weighed) UpdateStatus(ctx context.Context, s *v1.SecretProviderClassPodStatus) (*v1.SecretProviderClassPodStatus, error) {
	w.weigh(s.Namespace, s)
	return w.apiServer.UpdateStatus(ctx, s)
}

func (w *weighed) CreateEvent(ctx context.Context, e *corev1.Event) (*corev1.Event, error) {
	w.weigh(e.Namespace, e)
	return w.apiServer.CreateEvent(ctx, e)
}

// hostile runs a Reporter with the node's limits, and has a tenant's volumes
// change all their objects all the time.
type hostile struct {
	*weighed
	r                *status.Reporter
	volumes, objects int
	idBytes          int
	second           int
}

func newHostile(t *testing.T, volumes, objects, idBytes int) (h *hostile, stop func()) {
	t.Helper()
	h = &hostile{weighed: &weighed{apiServer: newServer(), bytes: map[string]int{}}, volumes: volumes, objects: objects, idBytes: idBytes}
	h.r = testkit.Value(status.New(status.Config{API: h, Logger: slog.New(slog.DiscardHandler), Driver: driver, Node: "node-1", QPS: 5, Burst: 20}))(t)
	return h, testkit.Background(t, h.r.Run)
}

func (h *hostile) run(seconds int) {
	const step = 5
	for range seconds / step {
		var versions []provider.Version
		for i := range h.objects {
			versions = append(versions, provider.Version{ID: fmt.Sprintf("%04d%s", i, strings.Repeat("n", h.idBytes)), Version: fmt.Sprintf("%024d", h.second)})
		}
		for i := range h.volumes {
			kind := volume.Refreshed
			if h.second == 0 {
				kind = volume.Published
			}
			o := outcome(kind, fmt.Sprintf("p%d", i), "c", nil)
			o.Pod.Namespace, o.Class.Namespace, o.Versions, o.Changed = "evil", "evil", versions, true
			h.r.Observe(o)
		}
		h.second += step
		time.Sleep(step * time.Second)
	}
	synctest.Wait()
}

// A tenant chooses how many objects there are, how long their names are and how often they change.
// The node's writes to etcd are bounded in any case.
func TestStatusBytesAreBounded(t *testing.T) {
	for _, tc := range []struct{ volumes, objects, idBytes, most, first, later int }{
		{5, 1000, 400, 4 << 10, 40 << 10, 20 << 10}, // shortened
		{110, 60, 100, 12 << 10, 512 << 10, 260 << 10},
		{110, 1, 1, 4 << 10, 300 << 10, 200 << 10},
	} {
		synctest.Test(t, func(t *testing.T) {
			h, stop := newHostile(t, tc.volumes, tc.objects, tc.idBytes)
			defer stop()
			h.run(60)
			first := h.bytes["evil"]
			h.run(180)
			later := (h.bytes["evil"] - first) / 3
			if first > tc.first || later > tc.later || h.most > tc.most || first == 0 || later == 0 {
				t.Errorf("%d volumes with %d objects: %d bytes in the first minute, then %d a minute, the largest object %d; want at most %d, %d, %d",
					tc.volumes, tc.objects, first, later, h.most, tc.first, tc.later, tc.most)
			}
		})
	}
}

// Whatever one namespace writes, another's statuses are written soon.
func TestNamespacesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, stop := newHostile(t, 100, 60, 100)
		defer stop()
		h.run(120) // what the node may write at once is used up
		h.r.Observe(outcome(volume.Published, "web-0", "db", nil, "3"))
		h.run(10)
		if s := h.statuses["web-0-shop-db"]; s == nil {
			t.Fatal("the first status of a volume is not written within 10 s")
		}
		h.r.Observe(outcome(volume.Refreshed, "web-0", "db", nil, "4"))
		h.run(10)
		testkit.Equal(t, "the rotation of a volume is not written within 10 s", h.statuses["web-0-shop-db"].Status.Objects[0].Version, "4")
		h.r.Observe(outcome(volume.Unpublished, "web-0", "db", nil))
		h.run(10)
		if h.statuses["web-0-shop-db"] != nil {
			t.Error("a status outlives its volume by 10 s")
		}
	})
}

func TestVersionsAreWrittenOnceAMinute(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		r.Observe(outcome(volume.Published, "web-0", "db", nil, "0"))
		waitIdle()
		for i := range 600 {
			r.Observe(outcome(volume.Refreshed, "web-0", "db", nil, fmt.Sprint(i+1)))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if writes := a.countWrites(); writes < 10 || writes > 12 {
			t.Errorf("%d writes in 10 minutes", writes)
		}
		time.Sleep(time.Minute)
		waitIdle()
		testkit.Equal(t, "the last version that is written", a.statuses["web-0-shop-db"].Status.Objects[0].Version, "600")
		// A change back to the written state needs no write.
		before := a.countWrites()
		r.Observe(outcome(volume.Refreshed, "web-0", "db", nil, "601"))
		r.Observe(outcome(volume.Refreshed, "web-0", "db", nil, "600"))
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		testkit.Equal(t, "writes, and none for an equal object", a.writes, before)
	})
}

// flap has a volume fail and recover each second.
func flap(r *status.Reporter, pod string, seconds int) {
	for i := range seconds {
		var err error
		if i%2 == 0 {
			err = fault.New(fault.Unavailable, "sealed (request %d)", i)
		}
		o := outcome(volume.Refreshed, pod, "db", err, "3")
		o.Failures = 1
		r.Observe(o)
		time.Sleep(time.Second)
	}
	synctest.Wait()
}

func TestFlappingVolumeIsWrittenSeldom(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		r.Observe(outcome(volume.Published, "web-0", "db", nil, "3"))
		waitIdle()
		flap(r, "web-0", 3600)
		if events := a.countEvents(); events > 3 {
			t.Errorf("%d Events", events)
		}
		// 60 statuses and 12 Events an hour, and the first few.
		if writes := a.countWrites(); writes > 90 {
			t.Errorf("%d writes in an hour of a volume that fails and recovers each second", writes)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		for _, e := range a.events {
			testkit.Equal(t, "times that "+e.Reason+" was counted", e.Count, 1800)
		}
		testkit.Equal(t, "annotations after the last recovery", len(a.statuses["web-0-shop-db"].Annotations), 0)
	})
}

func TestEventsOfANamespaceAreBounded(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		for i := range 500 {
			r.Observe(outcome(volume.Published, fmt.Sprintf("web-%d", i), "db", fault.New(fault.Denied, "no")))
		}
		waitIdle()
		if n := a.countEvents(); n < 30 || n > 60 {
			t.Errorf("%d Events at once for 500 volumes of a namespace", n)
		}
		other := outcome(volume.Published, "other", "db", fault.New(fault.Denied, "no"))
		other.Pod.Namespace = "else"
		r.Observe(other)
		time.Sleep(2 * time.Second) // the failed volumes have statuses too
		waitIdle()
		testkit.Equal(t, "Events of another namespace, which do not wait for the first one's", a.countEventsOf("else"), 1)
		time.Sleep(time.Hour)
		synctest.Wait()
		testkit.Equal(t, "Events in the end", a.countEvents(), 501)
	})
}

// TestEventsOfAGoneNamespaceEnd: the API server refuses the first, and is asked for no other one of
// the volume until a namespace of that name may have come again.
func TestEventsOfAGoneNamespaceEnd(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		fail := func(reason fault.Reason) {
			r.Observe(outcome(volume.Refreshed, "web-0", "db", fault.New(reason, "no")))
			waitIdle()
		}
		a.missing = "shop"
		for _, reason := range []fault.Reason{fault.Denied, fault.Timeout, fault.NotFound, fault.Denied} {
			fail(reason)
		}
		time.Sleep(5 * time.Minute)
		fail(fault.Unavailable)
		if a.tries != 1 || a.countEvents() != 0 {
			t.Errorf("%d tries to write into a namespace that is gone, want 1; %d Events", a.tries, a.countEvents())
		}
		a.missing = ""
		time.Sleep(6 * time.Minute)
		fail(fault.Unavailable)
		testkit.Equal(t, "Events in the namespace that came again", a.countEventsOf("shop"), 1)
	})
}

func TestTooManyObjectsBecomeADigest(t *testing.T) {
	many := func(version string, reversed bool) []provider.Version {
		var out []provider.Version
		for i := range 1000 {
			v := provider.Version{ID: fmt.Sprintf("%04d", i), Version: "1"}
			if i == 999 {
				v.Version = version
			}
			out = append(out, v)
		}
		if reversed {
			out[0], out[999] = out[999], out[0]
		}
		return out
	}
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		var digests []string
		for i, versions := range [][]provider.Version{many("1", false), many("2", false), many("2", true), many("1", false)} {
			kind := volume.Refreshed
			if i == 0 {
				kind = volume.Published
			}
			o := outcome(kind, "web-0", "db", nil)
			o.Versions = versions
			r.Observe(o)
			time.Sleep(time.Minute)
			waitIdle()
			s := a.statuses["web-0-shop-db"]
			if len(s.Status.Objects) != 1 || s.Status.Objects[0].ID != names.DigestID || !strings.Contains(s.Annotations[names.ObjectsAnnotation], "1000 objects") {
				t.Fatalf("the status is %+v", s)
			}
			digests = append(digests, s.Status.Objects[0].Version)
		}
		if digests[0] == digests[1] || digests[1] != digests[2] || digests[3] != digests[0] {
			t.Errorf("digests %q", digests)
		}
		r.Observe(outcome(volume.Refreshed, "web-0", "db", nil, "1"))
		time.Sleep(time.Minute)
		waitIdle()
		if s := a.statuses["web-0-shop-db"]; len(s.Annotations) != 0 || s.Status.Objects[0].ID != "o0" {
			t.Errorf("with one object the status is %+v", s)
		}
	})
}
