//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/test/node"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// longRunning is a pod that runs while a case disturbs the node. It prints its file at every change.
type longRunning struct {
	*tenant
	pod    *corev1.Pod
	mark   vaulttest.Mark
	logged string
}

func (c *tenant) newLongRunning() *longRunning {
	c.t.Helper()
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	pod := c.run(newPod("long-running", printChanges, mounts("db")))
	s := &longRunning{tenant: c, pod: pod, logged: marker + "one\n"}
	c.awaitLog("long-running", s.logged)
	s.mark = testkit.Value(c.vault.Mark())(c.t)
	return s
}

// rotate changes the secret and waits until the container has printed it.
func (s *longRunning) rotate(value string) {
	s.t.Helper()
	s.put("db", value)
	s.awaitPrinted(value)
}

func (s *longRunning) awaitPrinted(value string) {
	s.t.Helper()
	s.logged += marker + value + "\n"
	s.awaitLog("long-running", s.logged)
}

// checkNoRestartOrLogin checks that the container was not restarted and that the driver did not log in
// again.
func (s *longRunning) checkNoRestartOrLogin() {
	s.t.Helper()
	pod := s.awaitPod("long-running", isRunning)
	if n := pod.Status.ContainerStatuses[0].RestartCount; n != 0 {
		s.t.Errorf("the container was restarted %d times", n)
	}
	if err := wantCount(s.vault.asTenant(s.t.Context(), s.mark, loginPath, s.ns))(0); err != nil {
		s.t.Errorf("logins after the start: %v", err)
	}
}

// checkNewPod checks that a new pod starts and ends.
func (s *longRunning) checkNewPod(value string) {
	s.t.Helper()
	pod := s.run(newPod("later", printOnce, mounts("db")))
	s.awaitLog("later", marker+value+"\n")
	s.delete("later")
	s.awaitUnmounted(pod)
}

func driverKilled(c *tenant) {
	s := c.newLongRunning()
	before := testkit.Value(c.driver.restarts(c.t.Context()))(c.t)
	tally, trail := c.tally(), c.lastAuditChain()
	c.killDriver()
	s.checkFile(s.pod, "one")
	c.until("kubelet to start the driver again", func(ctx context.Context) error {
		now, err := c.driver.restarts(ctx)
		if err == nil && now != before+1 {
			err = fmt.Errorf("it has started it %d times", now)
		}
		return err
	})
	testkit.Must(c.t, c.driver.awaitReady(c.t.Context()))
	old := c.awaitStatus(s.pod, isMounted)
	s.rotate("two")
	if now := c.lastAuditChain(); now.ID != trail.ID || now.First <= trail.Last {
		c.t.Errorf("the audit trail was at %+v, and goes on at %+v", trail, now)
	}
	c.awaitStatus(s.pod, func(p podStatus) error {
		if p.Status.Objects[0] == old.Status.Objects[0] {
			return errors.New("the version is the old one")
		}
		return nil
	})
	// One write for the rotation, none for the restart.
	if n := c.writesSince(tally); n != 1 {
		c.t.Errorf("the driver wrote %d times, want once", n)
	}
	s.checkNoRestartOrLogin()
	s.checkNewPod("two")
}

// killDriver kills the driver without notice, and waits until kubelet has started another.
func (c *tenant) killDriver() { c.killProgram(driverProgram, "="+c.node.KubeletRoot()+"/") }

// killProgram kills the one process of a program with these words in its command line, and waits
// for another.
func (c *tenant) killProgram(program, words string) {
	c.t.Helper()
	before := testkit.Value(pidsOf(program, words))(c.t)
	if len(before) != 1 {
		c.t.Fatalf("there are processes %v of %s, want one", before, program)
	}
	testkit.Must(c.t, unix.Kill(before[0], unix.SIGKILL))
	c.until("another "+program, func(context.Context) error {
		now, err := pidsOf(program, words)
		if err == nil && (len(now) != 1 || now[0] == before[0]) {
			err = fmt.Errorf("there are %v", now)
		}
		return err
	})
}

func driverRolled(c *tenant) {
	s := c.newLongRunning()
	testkit.Must(c.t, c.driver.install(c.t.Context(), map[string]any{"image": map[string]any{"tag": versions[1]}}))
	if c.driverMetrics().sum("mayfly_build_info", `version="`+versions[1]+`"`) != 1 {
		c.t.Error("the driver is not of the new version")
	}
	s.rotate("two")
	s.checkNoRestartOrLogin()
	s.checkNewPod("two")
}

func kubeletRestarted(c *tenant) {
	s := c.newLongRunning()
	testkit.Must(c.t, c.node.Restart(c.t.Context(), node.Kubelet))
	s.rotate("two")
	s.checkNewPod("two")
	s.checkNoRestartOrLogin()
	s.delete("long-running")
	s.awaitUnmounted(s.pod)
}

// nodeRebooted loses every mount and the driver's state. kubelet starts the pod's container again and
// has its volume published again.
func nodeRebooted(c *tenant) {
	s := c.newLongRunning()
	testkit.Must(c.t, c.node.Reboot(c.t.Context()))
	c.put("db", "two")
	testkit.Must(c.t, c.driver.awaitReady(c.t.Context()))
	c.until("the container's second life", func(ctx context.Context) error {
		pod, err := c.api.CoreV1().Pods(c.ns).Get(ctx, "long-running", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if pod.UID != s.pod.UID || len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].RestartCount != 1 {
			return fmt.Errorf("it is at %v", pod.Status.ContainerStatuses)
		}
		return isRunning(pod)
	})
	s.logged = ""
	s.awaitPrinted("two")
	s.rotate("three")
	s.checkNewPod("three")
	s.delete("long-running")
	s.awaitUnmounted(s.pod)
}

// vaultSealed seals Vault: a mounted volume keeps its content, and a new pod waits.
func vaultSealed(c *tenant) {
	s := c.newLongRunning()
	testkit.Must(c.t, c.vault.Seal(c.t.Context()))
	c.t.Cleanup(func() { testkit.Must(c.t, c.vault.Unseal(context.WithoutCancel(c.t.Context()))) })
	c.awaitEvent("long-running", names.RefreshFailed, "keeps its last good content", "sealed")
	c.start(newPod("waiting", printOnce, mounts("db")))
	c.awaitEvent("waiting", failedMount, "failed to mount secrets store objects for pod "+c.ns+"/waiting", "sealed")
	for _, person := range []string{admin, c.developer()} {
		c.awaitExplained(person, row{name: "waiting", code: finding.CodeStoreUnavailable, words: []string{"Vault is sealed", "vault status -address="}})
		c.awaitExplained(person, row{name: "long-running", code: finding.CodeStoreUnavailable, level: finding.Warning, words: []string{"keeps its content", "Vault is sealed"}})
	}
	s.checkFile(s.pod, "one")

	testkit.Must(c.t, c.vault.Unseal(c.t.Context()))
	s.rotate("two")
	c.awaitPod("waiting", isRunning)
	c.awaitEvent("long-running", names.Recovered, "fresh again")
	pod := c.awaitPod("long-running", isRunning)
	if pod.Status.ContainerStatuses[0].RestartCount != 0 {
		c.t.Error("the container was restarted")
	}
}

// apiServerDown rotates while the API server is down, so that the driver can read no classes and
// write no status.
func apiServerDown(c *tenant) {
	s := c.newLongRunning()
	testkit.Must(c.t, c.node.Stop(c.t.Context(), node.APIServer))
	back := func(ctx context.Context) error { return c.node.Start(ctx, node.APIServer) }
	c.t.Cleanup(func() { testkit.Must(c.t, back(context.WithoutCancel(c.t.Context()))) })
	c.put("db", "two")
	c.awaitFile(s.pod, "two")
	// A driver that starts now cannot read the class: it goes on with the one in the volume's
	// record.
	c.killDriver()
	c.put("db", "three")
	c.awaitFile(s.pod, "three")
	testkit.Must(c.t, back(c.t.Context()))
	s.logged += marker + "two\n"
	s.awaitPrinted("three")
	s.checkNoRestartOrLogin()
	c.awaitStatus(s.pod, func(p podStatus) error {
		if len(p.Status.Objects) != 1 || p.Annotations[names.ReasonAnnotation] != "" {
			return fmt.Errorf("it is %+v, %v", p.Status, p.Annotations)
		}
		return nil
	})
	s.checkNewPod("three")
}
