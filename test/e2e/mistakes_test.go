//go:build e2e

package e2e

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// kubeletsMistakes are a new user's mistakes that kubelet or the container reports, besides those
// that the driver reports.
func kubeletsMistakes(c *tenant) {
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	testkit.Must(c.t, c.patchClass(c.t.Context(), "db", []byte(`{"spec":{"secretObjects":[{"secretName":"made","type":"Opaque","data":[{"objectName":"password","key":"p"}]}]}}`)))
	change := func(with func(*corev1.Pod)) []func(*corev1.Pod) {
		return []func(*corev1.Pod){mounts("db"), with}
	}
	csi := func(pod *corev1.Pod) *corev1.CSIVolumeSource { return pod.Spec.Volumes[0].CSI }

	c.start(newPod("writable", printOnce, change(func(pod *corev1.Pod) { csi(pod).ReadOnly = nil })...))
	c.start(newPod("other-driver", printOnce, change(func(pod *corev1.Pod) { csi(pod).Driver = "secret-store.csi.k8s.io" })...))
	c.start(newPod("reference", printOnce, change(func(pod *corev1.Pod) {
		csi(pod).NodePublishSecretRef = &corev1.LocalObjectReference{Name: "nothere"}
	})...))
	c.start(newPod("variable", printOnce, change(func(pod *corev1.Pod) {
		pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "P", ValueFrom: &corev1.EnvVarSource{
			SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "made"}, Key: "p"},
		}}}
	})...))
	private, owner := c.object("password", "db"), 0o400
	private.FilePermission = &owner
	c.class("private", nil, private)
	c.start(newPod("reader", `cat /secrets/password; exec sleep 100000`, mounts("private"), user(1000, 1000), withoutGroup))

	c.awaitEvent("writable", failedMount, "readonly is false", "set readOnly: true")
	c.awaitEvent("other-driver", failedMount, "secret-store.csi.k8s.io not found in the list of registered CSI drivers")
	c.awaitEvent("reference", failedMount, "nothere")
	c.awaitPod("variable", func(pod *corev1.Pod) error {
		for _, s := range pod.Status.ContainerStatuses {
			if w := s.State.Waiting; w != nil && w.Reason == "CreateContainerConfigError" && strings.Contains(w.Message, `secret "made" not found`) {
				return nil
			}
		}
		return fmt.Errorf("its containers are %v", pod.Status.ContainerStatuses)
	})
	c.awaitEvent("variable", names.ClassWarning, `["made"] is not made`)
	c.awaitWords("reader", "Permission denied")
}
