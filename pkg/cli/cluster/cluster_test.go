package cluster_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/mayfly-csi/mayfly/pkg/cli/clitest"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const objects = `
apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: db, namespace: shop}
spec: {provider: vault}
---
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata:
  name: secrets-store.csi.k8s.io
  annotations: {meta.helm.sh/release-namespace: mayfly}
---
apiVersion: v1
kind: Pod
metadata: {name: mayfly-1, namespace: mayfly, labels: {app.kubernetes.io/name: mayfly}}
spec: {nodeName: n1}
---
apiVersion: v1
kind: Pod
metadata: {name: mayfly-2, namespace: mayfly, labels: {app.kubernetes.io/name: mayfly}}
spec: {nodeName: n2}
---
apiVersion: recorded
kind: Forbidden
rules: [list secretproviderclasspodstatuses]
`

func connect(t *testing.T, args ...string) (*cluster.Client, *clitest.API) {
	t.Helper()
	api := clitest.New(t, objects)
	config := testkit.Value(api.Kubeconfig(t.TempDir()))(t)
	var f cluster.Flags
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.Bind(set)
	testkit.Must(t, set.Parse(append(args, "--kubeconfig", config)))
	c := testkit.Value(f.Connect(output.Streams{Version: "test"}))(t)
	return c, api
}

func TestClient(t *testing.T) {
	c, api := connect(t, "-n", "shop")
	if c.Namespace != "shop" || c.Requests() != 0 {
		t.Errorf("namespace %q, %d requests", c.Namespace, c.Requests())
	}
	testkit.Equal(t, "the class's provider", testkit.Value(c.Class(t.Context(), "shop", "db"))(t).Spec.Provider, "vault")
	if _, err := c.Class(t.Context(), "shop", "none"); !apierrors.IsNotFound(err) {
		t.Errorf("no class: %v", err)
	}
	testkit.Equal(t, "classes", len(testkit.Value(c.Classes(t.Context(), ""))(t)), 1)
	d, err := c.CSIDriver(t.Context())
	if err != nil || c.DriverNamespace(d) != "mayfly" || c.DriverNamespace(nil) != "kube-system" {
		t.Errorf("driver: %+v, %v", d, err)
	}
	if pods, err := c.DriverPods(t.Context(), "mayfly", "n2"); err != nil || len(pods) != 1 || pods[0].Name != "mayfly-2" {
		t.Errorf("pods: %d, %v", len(pods), err)
	}
	if c.Requests() != 5 || len(api.Requests()) != 5 {
		t.Errorf("%d requests, %q", c.Requests(), api.Requests())
	}
}

func TestNotSeen(t *testing.T) {
	c, _ := connect(t)
	_, err := c.PodStatuses(t.Context(), "", "")
	r := &finding.Report{}
	cluster.NotSeen(r, finding.Object{Kind: "SecretProviderClassPodStatus"}, err)
	if len(r.Findings) != 1 || r.Findings[0].Level != finding.Warning || !strings.Contains(r.Findings[0].Message, `User "developer" cannot list resource "secretproviderclasspodstatuses"`) {
		t.Errorf("%+v, %v", r.Findings, err)
	}
}

func TestPages(t *testing.T) {
	c, api := connect(t)
	for i := range 1200 {
		api.Add(pod(i))
	}
	pods, err := c.DriverPods(t.Context(), "many", "")
	if err != nil || len(pods) != 1200 || c.Requests() != 3 {
		t.Errorf("%d pods by %d requests, %v", len(pods), c.Requests(), err)
	}
}

func pod(i int) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion("v1")
	o.SetKind("Pod")
	o.SetNamespace("many")
	o.SetName(fmt.Sprint("pod-", i))
	o.SetLabels(map[string]string{"app.kubernetes.io/name": "mayfly"})
	return o
}

func TestDriverFlags(t *testing.T) {
	got := cluster.DriverFlags(&corev1.Container{
		Args: []string{"--nodeid=n1", "-audit-log", "-", "--strict-classes", "--vault-addr", "https://vault.example:8200", "--vault-mount="},
		Env:  []corev1.EnvVar{{Name: "MAYFLY_AUDIT_LEVEL", Value: "all"}, {Name: "NODE_NAME", Value: "n1"}, {Name: "MAYFLY_VAULT_MOUNT", Value: "jwt"}},
	})
	want := map[string]string{
		"nodeid": "n1", "audit-log": "-", "strict-classes": "true", "vault-addr": "https://vault.example:8200", "vault-mount": "", "audit-level": "all",
	}
	if !maps.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
