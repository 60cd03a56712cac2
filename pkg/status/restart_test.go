package status_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/status"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const driver = "secrets-store.csi.k8s.io"

// restarted runs a second process of node-1, which begins with the outcomes of
// its recovery.
func restarted(t *testing.T, api status.API, recovered ...volume.Outcome) (r *status.Reporter, stop func()) {
	t.Helper()
	r = testkit.Value(status.New(status.Config{API: api, Logger: slog.New(slog.DiscardHandler), Driver: driver, Node: "node-1", QPS: 1000, Burst: 10}))(t)
	for _, o := range recovered {
		r.Observe(o)
	}
	return r, testkit.Background(t, r.Run)
}

func recoveries(n int) (all []volume.Outcome) {
	for i := range n {
		all = append(all, outcome(volume.Recovered, fmt.Sprintf("web-%d", i), "db", nil, "3"))
	}
	return all
}

// A restarting fleet lists nothing, and reads one object for each volume, over a minute.
func TestRestartTakesUpWhatIsThere(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		for i := range 50 {
			r.Observe(outcome(volume.Published, fmt.Sprintf("web-%d", i), "db", nil, "3"))
		}
		waitIdle()
		before := a.requests
		other, stop := restarted(t, a, recoveries(50)...)
		defer stop()
		waitIdle()
		if n := a.requests - before; n > 10 {
			t.Errorf("%d requests at once after a restart", n)
		}
		other.Observe(outcome(volume.Refreshed, "web-0", "db", nil, "4"))
		waitIdle()
		if a.statuses["web-0-shop-db"].Status.Objects[0].Version != "4" || a.writes != 51 {
			t.Error("the restarted driver did not go on")
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if a.writes != 51 || a.requests > before+51 || a.lists != 0 {
			t.Errorf("a restart with 50 volumes cost %d requests, %d of them writes and %d lists: want one read a volume and one write",
				a.requests-before, a.writes-50, a.lists)
		}
	})
}

// The failure that the last process reported has ended when this one reads.
func TestRestartEndsTheFailureOfBefore(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		r.Observe(outcome(volume.Published, "web-0", "db", nil, "3"))
		failed := outcome(volume.Refreshed, "web-0", "db", fault.New(fault.Unavailable, "sealed"), "3")
		failed.Failures = 1
		r.Observe(failed)
		waitIdle()
		_, stop := restarted(t, a, recoveries(1)...)
		defer stop()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		testkit.Equal(t, "annotations", len(a.statuses["web-0-shop-db"].Annotations), 0)
	})
}

func TestUnpublishRightAfterARestart(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		r.Observe(outcome(volume.Published, "a", "x-shop-b", nil, "1"))
		waitIdle()
		r.Observe(outcome(volume.Published, "a-shop-x", "b", nil, "2")) // its plain name is taken
		waitIdle()
		recovered := outcome(volume.Recovered, "a-shop-x", "b", nil, "2")
		other, stop := restarted(t, a, recovered)
		defer stop()
		other.Observe(outcome(volume.Unpublished, "a-shop-x", "b", nil))
		waitIdle()
		if len(a.statuses) != 1 || a.statuses["a-shop-x-shop-b"].Status.PodName != "a" {
			t.Errorf("the API server has %d objects, want the other volume's alone", len(a.statuses))
		}
	})
}

// The driver does not change what another node's driver wrote for a pod of the same name.
func TestAnotherNodesObjectIsLeftAlone(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		foreign := &v1.SecretProviderClassPodStatus{Status: v1.SecretProviderClassPodStatusStatus{PodName: "web-0", SecretProviderClassName: "db"}}
		foreign.Namespace, foreign.Name, foreign.Labels = "shop", "web-0-shop-db", map[string]string{v1.NodeLabel: "node-2"}
		testkit.Value(a.CreateStatus(t.Context(), foreign))(t)
		r.Observe(outcome(volume.Published, "web-0", "db", nil, "3"))
		waitIdle()
		if len(a.statuses) != 2 || a.statuses["web-0-shop-db"].Labels[v1.NodeLabel] != "node-2" {
			t.Errorf("the API server has %v", a.statuses)
		}
	})
}

func TestOrphansGoLater(t *testing.T) {
	bubble(t, nil, func(t *testing.T, a *apiServer, r *status.Reporter) {
		for _, pod := range []string{"web-0", "web-1", "gone"} {
			r.Observe(outcome(volume.Published, pod, "db", nil, "3"))
		}
		waitIdle()
		for name, labels := range map[string]map[string]string{
			"other-driver": {v1.NodeLabel: "node-1", names.DriverLabel: "other.example.com"},
			"no-driver":    {v1.NodeLabel: "node-1"},
			"other-node":   {v1.NodeLabel: "node-2", names.DriverLabel: driver},
		} {
			s := &v1.SecretProviderClassPodStatus{}
			s.Namespace, s.Name, s.Labels = "shop", name, labels
			testkit.Value(a.CreateStatus(t.Context(), s))(t)
		}
		lists := &counted{apiServer: a}
		_, stop := restarted(t, lists, recoveries(2)...)
		defer stop()
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		testkit.Equal(t, "lists soon after the start", lists.n.Load(), 0)
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		testkit.Equal(t, "lists", lists.n.Load(), 1)
		for _, name := range []string{"web-0-shop-db", "web-1-shop-db", "other-driver", "no-driver", "other-node"} {
			if a.statuses[name] == nil {
				t.Errorf("%s was deleted", name)
			}
		}
		if a.statuses["gone-shop-db"] != nil {
			t.Error("the status of a gone volume stays")
		}
	})
}

// counted counts one process's lists.
type counted struct {
	*apiServer
	n atomic.Int32
}

func (c *counted) ListStatuses(ctx context.Context, node string) ([]v1.SecretProviderClassPodStatus, error) {
	c.n.Add(1)
	return c.apiServer.ListStatuses(ctx, node)
}

// A label has 63 characters and the name of a node up to 253.
func TestLongNodeNames(t *testing.T) {
	long := strings.Repeat("n", 52) + ".example.com"
	labels := map[string]bool{}
	for _, node := range []string{strings.Repeat("n", 63), long, long + ".test"} {
		bubble(t, func(c *status.Config) { c.Node = node }, func(t *testing.T, a *apiServer, r *status.Reporter) {
			r.Observe(outcome(volume.Published, "web-0", "db", nil, "3"))
			waitIdle()
			s := a.statuses["web-0-shop-db"]
			if s == nil {
				t.Fatalf("no status on a node with a name of %d characters", len(node))
			}
			label, want := s.Labels[v1.NodeLabel], ""
			if len(node) > 63 {
				want = node
			}
			if len(label) > 63 || labels[label] || s.Annotations[names.NodeAnnotation] != want || !strings.HasPrefix(label, node[:52]) {
				t.Errorf("node %s: label %q, annotations %v", node, label, s.Annotations)
			}
			labels[label] = true
			r.Observe(outcome(volume.Unpublished, "web-0", "db", nil))
			waitIdle()
			testkit.Equal(t, "the status outlives the volume", len(a.statuses), 0)
		})
	}
}
