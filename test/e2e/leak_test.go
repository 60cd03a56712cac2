//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/test/audittest"
	"github.com/mayfly-csi/mayfly/test/node"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// leaked returns the text around a secret or a service account token in data.
func leaked(data []byte) string {
	for _, word := range []string{marker, "eyJhbGciOi"} {
		if i := bytes.Index(data, []byte(word)); i >= 0 {
			return string(data[max(0, i-200):min(len(data), i+40)])
		}
	}
	return ""
}

// checkLeaks checks the tenant's objects in the API server, while they exist.
func (c *tenant) checkLeaks(ctx context.Context) {
	statuses, err := c.api.CoreV1().RESTClient().Get().AbsPath(c.path(v1.SecretProviderClassPodStatusResource)).DoRaw(ctx)
	if err != nil {
		c.t.Errorf("listing the statuses: %v", err)
	}
	if found := leaked(statuses); found != "" {
		c.t.Errorf("a status holds a secret: %s", found)
	}
	events, err := c.api.CoreV1().Events(c.ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		c.t.Errorf("listing the events: %v", err)
		return
	}
	for _, e := range events.Items {
		if found := leaked([]byte(e.Message)); found != "" {
			c.t.Errorf("an event holds a secret: %s", found)
		}
	}
}

// checkLogs checks the logs of the driver, at level debug and with its audit trail, and of kubelet.
func (e *environment) checkLogs(t *testing.T) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(e.node.AuditLog()), "pods", releaseNamespace+"_*", "*", "*"))
	testkit.Must(t, err)
	if len(files) == 0 {
		t.Error("there is no log of the driver")
	}
	lines := 0
	for _, file := range append(files, e.node.Log(node.Kubelet)) {
		data, err := os.ReadFile(file)
		testkit.Must(t, err)
		if found := leaked(data); found != "" {
			t.Errorf("%s holds a secret: %s", file, found)
		}
		lines += audittest.Check(t, data)
	}
	if found := leaked([]byte(e.collector.Text())); found != "" {
		t.Errorf("the traces hold a secret: %s", found)
	}
	if lines == 0 {
		t.Error("there is no audit trail in the driver's logs")
	}
}
