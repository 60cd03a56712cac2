//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
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
	return testkit.Value(c.events(c.t.Context(), c.ns, pod))(c.t)
}

// tokenTransports has kubelet pass the service account tokens in the volume context, as before
// Kubernetes 1.35, and then in the secrets of the request.
func tokenTransports(c *tenant) {
	s := c.newLongRunning()
	for _, inSecrets := range []bool{false, true} {
		testkit.Must(c.t, c.driver.install(c.t.Context(), map[string]any{
			"csiDriver": map[string]any{"serviceAccountTokenInSecrets": inSecrets},
		}))
		driver := testkit.Value(c.api.StorageV1().CSIDrivers().Get(c.t.Context(), driverName, metav1.GetOptions{}))(c.t)
		if got := driver.Spec.ServiceAccountTokenInSecrets; got != nil && *got != inSecrets || got == nil && inSecrets {
			c.t.Fatalf("the CSIDriver object has serviceAccountTokenInSecrets %v, want %t", got, inSecrets)
		}
		name := fmt.Sprintf("tokens-%t", inSecrets)
		mark := testkit.Value(c.vault.Mark())(c.t)
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

// mountFlags reports which of a volume's mount options a container has. The runtime binds the
// node's mount into the container, and may drop the options of a mount; those of the file system
// stay, and kubelet itself requests read-only for the container (docs/security.md).
func mountFlags(c *tenant) {
	c.put("db", "one")
	mode := 0o755
	script := c.object("script", "script")
	script.FilePermission = &mode
	testkit.Must(c.t, c.vault.PutKV2(c.t.Context(), kvMount, c.ns+"/script", map[string]any{"password": "#!/bin/sh\necho ran\n"}))
	c.class("db", nil, c.object("password", "db"), script)
	pod := c.run(newPod("flags", `grep ' /secrets ' /proc/self/mountinfo
touch /secrets/new 2>/dev/null && echo written
chmod u+s /secrets/script 2>/dev/null && echo setuid
/secrets/script 2>/dev/null || echo refused
exec sleep 100000`, mounts("db")))

	table := testkit.Value(os.ReadFile("/proc/self/mountinfo"))(c.t)
	node := testkit.Value(mountOf(string(table), c.volume(pod, volumeName)))(c.t)
	var lines []string
	c.until("the container to have run its script", func(ctx context.Context) error {
		text, err := c.log(ctx, "flags")
		lines = strings.Split(strings.TrimSpace(text), "\n")
		if err == nil && !slices.Contains(lines, "ran") && !slices.Contains(lines, "refused") {
			err = fmt.Errorf("it printed %q", text)
		}
		return err
	})
	container := testkit.Value(mountOf(lines[0], mountPath))(c.t)
	c.t.Logf("on the node:      %s", node)
	c.t.Logf("in the container: %s", container)
	c.t.Logf("a script of mode 0755 in the volume: %s", lines[len(lines)-1])

	node.want(c, "on the node", "nosuid", "nodev", "noexec")
	container.want(c, "in the container", "ro")
	if container.system != node.system || !strings.Contains(container.system, "noswap") || !strings.Contains(container.system, "size=") {
		c.t.Errorf("the file system has %s in the container and %s on the node", container.system, node.system)
	}
	if len(lines) != 2 {
		c.t.Errorf("the container could write: it printed %q", lines)
	}
	if ran := lines[len(lines)-1] == "ran"; ran == slices.Contains(container.mount, "noexec") {
		c.t.Errorf("a script ran: %t, with the mount options %q", ran, container.mount)
	}
}

// mountOptions are those of a mount and of its file system.
type mountOptions struct {
	mount  []string
	system string
}

func (m mountOptions) String() string { return strings.Join(m.mount, ",") + " - " + m.system }

func (m mountOptions) want(c *tenant, where string, options ...string) {
	c.t.Helper()
	for _, option := range options {
		if !slices.Contains(m.mount, option) {
			c.t.Errorf("%s the mount lacks %s: %s", where, option, m)
		}
	}
}

// mountOf finds a mount in the text of a mountinfo file.
func mountOf(table, target string) (found mountOptions, err error) {
	err = fmt.Errorf("nothing is mounted at %s in %q", target, table)
	for line := range strings.Lines(table) {
		mount, system, ok := strings.Cut(line, " - ")
		fields := strings.Fields(mount)
		if !ok || len(fields) < 6 || fields[4] != target {
			continue
		}
		system = strings.TrimSpace(system)
		found, err = mountOptions{strings.Split(fields[5], ","), system[strings.LastIndexByte(system, ' ')+1:]}, nil
	}
	return found, err
}
