package nodes_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/mayfly-csi/mayfly/pkg/cli/clitest"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/nodes"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func podOf(name, node, phase string, args ...string) string {
	quoted := ""
	for _, a := range args {
		quoted += fmt.Sprintf("%q, ", a)
	}
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: mayfly, labels: {app.kubernetes.io/name: mayfly}}
spec: {nodeName: %s, containers: [{name: mayfly-node, image: x, args: [%s]}]}
status: {phase: %s}
`, name, node, quoted, phase)
}

const driverObject = `---
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: secrets-store.csi.k8s.io, annotations: {meta.helm.sh/release-namespace: mayfly}}
`

func find(t *testing.T, text string) (*nodes.Nodes, *clitest.API) {
	t.Helper()
	api := clitest.New(t, driverObject+text)
	path := testkit.Value(api.Kubeconfig(t.TempDir()))(t)
	f := &cluster.Flags{}
	set := pflag.NewFlagSet("test", pflag.ContinueOnError)
	f.Bind(set)
	testkit.Must(t, set.Parse([]string{"--kubeconfig=" + path}))
	c := testkit.Value(f.Connect(output.Streams{Version: "test"}))(t)
	n := testkit.Value(nodes.Find(t.Context(), c))(t)
	t.Cleanup(n.Close)
	return n, api
}

const recordedStatus = `---
apiVersion: recorded
kind: NodeStatus
pod: mayfly/mayfly-a
status:
  now: 2026-11-28T10:00:00Z
  node: {name: node-a}
  volumes:
  - {id: csi-1, namespace: shop, pod: web-0, class: db, state: Fresh}
  - {id: csi-2, namespace: bank, pod: web-0, class: db, state: Fresh}
refreshed:
  now: 2026-11-28T10:00:01Z
  volumes:
  - {id: csi-1, namespace: shop, pod: web-0, class: db, state: Failing}
`

// ask returns the answers in the order of the names.
func ask(t *testing.T, n *nodes.Nodes, names []string, q nodes.Query) []nodes.Answer {
	out := make([]nodes.Answer, len(names))
	n.Ask(t.Context(), names, q, func(a nodes.Answer) { out[slices.Index(names, a.Node)] = a })
	return out
}

func TestAsk(t *testing.T) {
	n, api := find(t, podOf("mayfly-a", "node-a", "Running")+podOf("mayfly-b", "node-b", "Running", "--status-address=off")+
		podOf("mayfly-c", "node-c", "Running", "--status-address=10.0.0.1:99")+podOf("other", "node-d", "Running", "--driver-name=other")+recordedStatus+`---
{apiVersion: recorded, kind: NodeStatus, pod: mayfly/mayfly-c, refused: "error forwarding port 99 to pod: dial tcp4 127.0.0.1:99: connect: connection refused"}
`)
	testkit.Equal(t, "nodes", strings.Join(n.Names(), " "), "node-a node-b node-c")
	got := ask(t, n, []string{"node-a", "node-b", "node-c", "node-d"}, nodes.Query{Namespace: "shop"})
	if a := got[0]; a.Err != nil || a.Node != "node-a" || a.Status.Node.Name != "node-a" || a.Status.Total != 1 || a.Status.Volumes[0].ID != "csi-1" {
		t.Errorf("%+v", a)
	}
	if !errors.Is(got[1].Err, nodes.ErrOff) || !errors.Is(got[3].Err, nodes.ErrNoDriver) {
		t.Errorf("%v, %v", got[1].Err, got[3].Err)
	}
	testkit.Says(t, got[2].Err, "connection refused")
	before := len(api.Requests())
	if got := ask(t, n, []string{"node-a"}, nodes.Query{}); got[0].Err != nil || len(got[0].Status.Volumes) != 2 {
		t.Errorf("%+v", got)
	}
	if after := api.Requests()[before:]; len(after) != 1 || after[0] != "node: GET /status?" && after[0] != "node: GET /status" {
		t.Errorf("the second call made the requests %q", after)
	}
}

func TestRefresh(t *testing.T) {
	n, _ := find(t, podOf("mayfly-a", "node-a", "Running")+recordedStatus)
	r, err := n.Refresh(t.Context(), "node-a", "shop", "web-0")
	if err != nil || len(r.Volumes) != 1 || r.Volumes[0] != "csi-1" || r.Now.IsZero() {
		t.Errorf("%+v, %v", r, err)
	}
	testkit.Equal(t, "the volume's state", testkit.Value(n.Status(t.Context(), "node-a", nodes.Query{Pod: "web-0"}))(t).Volumes[0].State, "Failing")
}

// TestAsksTheRunningPod: during an upgrade a node may have several pods of the driver.
func TestAsksTheRunningPod(t *testing.T) {
	n, _ := find(t, podOf("mayfly-old", "node-a", "Failed")+podOf("mayfly-a", "node-a", "Running")+podOf("mayfly-new", "node-a", "Pending")+recordedStatus)
	if _, err := n.Status(t.Context(), "node-a", nodes.Query{}); err != nil {
		t.Error(err)
	}
}

func TestForbidden(t *testing.T) {
	n, api := find(t, podOf("mayfly-a", "node-a", "Running")+recordedStatus+`---
{apiVersion: recorded, kind: Forbidden, rules: ["create pods/portforward", "get pods/portforward"]}
`)
	_, err := n.Status(t.Context(), "node-a", nodes.Query{})
	if err == nil || !apierrors.IsForbidden(err) || !strings.Contains(cluster.Reason(err), `cannot create resource "pods" in API group ""`) {
		t.Errorf("%v", err)
	}
	for _, r := range api.Requests() {
		if strings.HasPrefix(r, "node:") {
			t.Errorf("a request reached the node: %s", r)
		}
	}
}

// TestTimeout: a request to a node that hangs ends at the caller's deadline.
func TestTimeout(t *testing.T) {
	n, api := find(t, podOf("mayfly-a", "node-a", "Running")+recordedStatus)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	api.Hang()
	_, err := n.Status(ctx, "node-a", nodes.Query{})
	testkit.Is(t, err, context.DeadlineExceeded)
}
