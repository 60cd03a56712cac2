//go:build e2e

package e2e

import (
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/status/names"
)

// boundToItsNode writes an Event of this node as the driver of this node, of another, and of none, as
// the API server reads it from their tokens: only the first is allowed.
func boundToItsNode(c *tenant) {
	for node, allowed := range map[string]bool{c.node.Name(): true, "another": false, "": false} {
		event := &corev1.Event{
			ObjectMeta:     metav1.ObjectMeta{Name: "bound-" + node + "-x", Namespace: c.ns},
			InvolvedObject: corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: c.ns, Name: "none"},
			Type:           corev1.EventTypeWarning, Reason: "Test", Message: "test",
			Source:              corev1.EventSource{Component: names.EventComponent, Host: c.node.Name()},
			ReportingController: driverName, ReportingInstance: c.node.Name(),
		}
		request := c.api.CoreV1().RESTClient().Post().Namespace(c.ns).Resource("events").Body(event).
			SetHeader("Impersonate-User", driverUser)
		if node != "" {
			request.SetHeader("Impersonate-Extra-authentication.kubernetes.io%2Fnode-name", node)
		}
		err := request.Do(c.t.Context()).Error()
		if allowed && err != nil || !allowed && !apierrors.IsForbidden(err) {
			c.t.Errorf("as the driver on node %q: %v, want it allowed: %t", node, err, allowed)
		}
	}
}
