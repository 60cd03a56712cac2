package taint_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/mayfly-csi/mayfly/pkg/taint"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// nodes serves one node as the API server does.
type nodes struct {
	mu      sync.Mutex
	node    corev1.Node
	patches int
	// conflicts is how many patches fail with a conflict.
	conflicts int
}

func (n *nodes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Path != "/api/v1/nodes/node-1" {
		http.NotFound(w, r)
		return
	}
	if r.Method == http.MethodPatch {
		n.patches++
		var patch corev1.Node
		if err := json.NewDecoder(r.Body).Decode(&patch); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if n.conflicts > 0 || patch.ResourceVersion != n.node.ResourceVersion {
			n.conflicts--
			w.WriteHeader(http.StatusConflict)
			_ = json.NewEncoder(w).Encode(metav1.Status{Status: "Failure", Code: http.StatusConflict, Reason: metav1.StatusReasonConflict})
			return
		}
		n.node.Spec.Taints = patch.Spec.Taints
	}
	_ = json.NewEncoder(w).Encode(n.node)
}

func serve(t *testing.T, keys ...string) (*nodes, *rest.Config) {
	t.Helper()
	n := &nodes{node: corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: "node-1", ResourceVersion: "7"},
	}}
	for _, k := range keys {
		n.node.Spec.Taints = append(n.node.Spec.Taints, corev1.Taint{Key: k, Effect: corev1.TaintEffectNoSchedule})
	}
	server := httptest.NewServer(n)
	t.Cleanup(server.Close)
	return n, &rest.Config{Host: server.URL}
}

func run(t *testing.T, c *rest.Config, ready func() error) {
	t.Helper()
	r := testkit.Value(taint.New(c, "node-1", "node.mayfly.dev/not-ready", ready, slog.New(slog.DiscardHandler)))(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := r.Run(ctx); err != nil || ctx.Err() != nil {
		t.Fatalf("Run: %v, %v", err, ctx.Err())
	}
}

func TestTakesItsTaintOffAndNoOther(t *testing.T) {
	n, c := serve(t, "other", "node.mayfly.dev/not-ready")
	n.conflicts = 1
	run(t, c, func() error { return nil })
	if len(n.node.Spec.Taints) != 1 || n.node.Spec.Taints[0].Key != "other" || n.patches != 2 {
		t.Errorf("taints %v after %d patches", n.node.Spec.Taints, n.patches)
	}
}

func TestNothingToTakeOff(t *testing.T) {
	n, c := serve(t, "other")
	run(t, c, func() error { return nil })
	testkit.Equal(t, "patches", n.patches, 0)
}

func TestWaitsUntilReady(t *testing.T) {
	n, c := serve(t, "node.mayfly.dev/not-ready")
	asked := 0
	run(t, c, func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if asked++; asked < 3 {
			if n.patches > 0 {
				t.Error("patched before it was ready")
			}
			return errors.New("not yet")
		}
		return nil
	})
	testkit.Equal(t, "taints", len(n.node.Spec.Taints), 0)
}
