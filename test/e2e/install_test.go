//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// driverReinstalled removes the driver under a live pod. Pods that need the driver wait for it.
func driverReinstalled(c *tenant) {
	s := c.newLongRunning()
	leaving := c.run(newPod("leaving", printOnce, mounts("db")))
	// The chart's pre-delete hook refuses while volumes are mounted.
	err := c.driver.runHelm(c.t.Context(), "uninstall", releaseName)
	if err == nil || !strings.Contains(err.Error(), "volumes of driver "+driverName+" are mounted, ") || !strings.Contains(err.Error(), "namespace "+c.ns+": 2") {
		c.t.Fatalf("uninstalling with mounted volumes: %v", err)
	}
	s.checkFile(s.pod, "one")
	testkit.Must(c.t, c.driver.uninstall(c.t.Context()))
	s.checkFile(s.pod, "one")
	c.start(newPod("coming", printOnce, mounts("db")))
	c.awaitEvent("coming", failedMount, driverName)
	c.awaitExplained(admin, row{name: "coming", code: finding.CodeDriverAbsent, words: []string{"has no pod of the driver"}})
	c.awaitExplained(c.developer(), row{name: "coming", code: finding.CodeNotRegistered, words: []string{driverName}})
	testkit.Must(c.t, c.api.CoreV1().Pods(c.ns).Delete(c.t.Context(), "leaving", metav1.DeleteOptions{}))
	s.checkFile(leaving, "one")

	testkit.Must(c.t, c.driver.install(c.t.Context(), nil))
	c.awaitPod("coming", isRunning)
	c.awaitLog("coming", marker+"one\n")
	c.awaitGone("leaving")
	c.awaitUnmounted(leaving)
	s.rotate("two")
	pod := s.awaitPod("long-running", isRunning)
	if pod.Status.ContainerStatuses[0].RestartCount != 0 {
		c.t.Error("the container was restarted")
	}
}

// taintRemoved taints the node as an operator does: no pod is scheduled before the driver is ready.
func taintRemoved(c *tenant) {
	const key = "node.mayfly.dev/not-ready"
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	testkit.Must(c.t, c.driver.uninstall(c.t.Context()))
	testkit.Must(c.t, c.taint(c.t.Context(), key))
	c.start(newPod("early", printOnce, mounts("db")))
	c.awaitPod("early", func(pod *corev1.Pod) error {
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodScheduled && condition.Reason == corev1.PodReasonUnschedulable {
				return nil
			}
		}
		return errors.New("it has no condition Unschedulable")
	})
	for _, person := range []string{admin, c.developer()} {
		c.awaitExplained(person, row{name: "early", code: finding.CodeNotScheduled, words: []string{key, "start-up taint"}})
	}
	testkit.Must(c.t, c.driver.install(c.t.Context(), map[string]any{"startupTaint": map[string]any{"remove": true, "key": key}}))
	c.awaitPod("early", isRunning)
	c.awaitLog("early", marker+"one\n")
	for _, e := range c.mustEvents("early") {
		if e.Reason == failedMount {
			c.t.Errorf("the pod was scheduled before the driver was ready: %s", e.Message)
		}
	}
	testkit.Must(c.t, c.driver.install(c.t.Context(), nil))
}

func (c *tenant) taint(ctx context.Context, key string) error {
	node, err := c.api.CoreV1().Nodes().Get(ctx, c.node.Name(), metav1.GetOptions{})
	if err != nil {
		return err
	}
	node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	_, err = c.api.CoreV1().Nodes().Update(ctx, node, metav1.UpdateOptions{})
	return err
}

func (c *tenant) mustEvents(pod string) []corev1.Event {
	c.t.Helper()
	events, err := c.events(c.t.Context(), c.ns, pod)
	testkit.Must(c.t, err)
	return events
}

// tokenTransports has kubelet pass the service account tokens in the volume context, as before
// Kubernetes 1.35, and then in the secrets of the request.
func tokenTransports(c *tenant) {
	s := c.newLongRunning()
	for _, inSecrets := range []bool{false, true} {
		testkit.Must(c.t, c.driver.install(c.t.Context(), map[string]any{
			"csiDriver": map[string]any{"serviceAccountTokenInSecrets": inSecrets},
		}))
		driver, err := c.api.StorageV1().CSIDrivers().Get(c.t.Context(), driverName, metav1.GetOptions{})
		testkit.Must(c.t, err)
		if got := driver.Spec.ServiceAccountTokenInSecrets; got != nil && *got != inSecrets || got == nil && inSecrets {
			c.t.Fatalf("the CSIDriver object has serviceAccountTokenInSecrets %v, want %t", got, inSecrets)
		}
		name := fmt.Sprintf("tokens-%t", inSecrets)
		mark, err := c.vault.Mark()
		testkit.Must(c.t, err)
		// Another service account, without a login.
		c.account(name)
		testkit.Must(c.t, c.vault.allowLogin(c.t.Context(), c.ns, map[string]any{"bound_service_account_names": "*"}))
		c.run(newPod(name, printOnce, as(name), mounts("db")))
		c.awaitLog(name, marker+"one\n")
		if err := wantCount(c.vault.asTenant(c.t.Context(), mark, loginPath, c.ns))(1); err != nil {
			c.t.Errorf("logins: %v", err)
		}
	}
	s.rotate("two")
}
