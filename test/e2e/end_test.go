//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/test/audittest"
	"github.com/mayfly-csi/mayfly/test/node"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

const revokePath = "auth/token/revoke-self"

func podDeleted(c *tenant) {
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	mark := testkit.Value(c.vault.Mark())(c.t)
	pod := c.run(newPod("short", printOnce, mounts("db")))
	if line := mountLine(c.t.Context(), c.volume(pod, volumeName)); !strings.Contains(line, " - tmpfs ") || !strings.Contains(line, "noexec") {
		c.t.Errorf("the volume's mount is %q, want a tmpfs with noexec", line)
	}
	c.delete("short")
	c.awaitUnmounted(pod)
	c.until("the Vault token to be revoked", func(ctx context.Context) error {
		return wantCount(c.vault.asTenant(ctx, mark, revokePath, c.ns))(1)
	})
}

// awaitUnmounted waits until kubelet has removed the pod's folder with every mount.
func (c *tenant) awaitUnmounted(pod *corev1.Pod) {
	c.t.Helper()
	dir := filepath.Join(c.node.KubeletRoot(), "pods", string(pod.UID))
	c.until("the pod's folder to go", func(ctx context.Context) error {
		if line := mountLine(ctx, dir); line != "" {
			return fmt.Errorf("there is a mount: %s", line)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
			return errors.Join(errors.New("it is still there"), err)
		}
		return nil
	})
}

// mountLine is the first line of mountinfo for a mount at or below a path.
func mountLine(_ context.Context, path string) string {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && (fields[4] == path || strings.HasPrefix(fields[4], path+"/")) {
			return line
		}
	}
	return ""
}

// jobCompletes runs a pod that completes and is not deleted: kubelet must unpublish its volume, because
// no container reads it any more.
func jobCompletes(c *tenant) {
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	mark := testkit.Value(c.vault.Mark())(c.t)
	template := newPod("", `cat /secrets/password`, once, mounts("db"))
	testkit.Value(c.api.BatchV1().Jobs(c.ns).Create(c.t.Context(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "job"},
		Spec:       batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: template.Spec}},
	}, metav1.CreateOptions{}))(c.t)
	c.until("the job to complete", func(ctx context.Context) error {
		job, err := c.api.BatchV1().Jobs(c.ns).Get(ctx, "job", metav1.GetOptions{})
		if err == nil && job.Status.Succeeded != 1 {
			err = fmt.Errorf("it is at %+v", job.Status)
		}
		return err
	})
	pods := testkit.Value(c.api.CoreV1().Pods(c.ns).List(c.t.Context(), metav1.ListOptions{LabelSelector: "job-name=job"}))(c.t)
	if len(pods.Items) != 1 {
		c.t.Fatalf("the job has %d pods", len(pods.Items))
	}
	pod := &pods.Items[0]
	c.until("the volume to go", func(ctx context.Context) error {
		if line := mountLine(ctx, c.volume(pod, volumeName)); line != "" {
			return fmt.Errorf("there is a mount: %s", line)
		}
		return nil
	})
	c.until("the Vault token to be revoked", func(ctx context.Context) error {
		return wantCount(c.vault.asTenant(ctx, mark, revokePath, c.ns))(1)
	})
	c.checkNotRead(kvMount + "/data/" + c.ns + "/db")
	if err := wantCount(c.vault.asTenant(c.t.Context(), mark, loginPath, c.ns))(1); err != nil {
		c.t.Errorf("logins: %v", err)
	}
	c.awaitLog(pod.Name, marker+"one")
}

// wantCount returns a function that returns an error if got is not want.
func wantCount(got int, err error) func(want int) error {
	return func(want int) error {
		if err == nil && got != want {
			return fmt.Errorf("there are %d, want %d", got, want)
		}
		return err
	}
}

// checkNotRead checks that the driver does not read a secret while it refreshes another tenant's
// volume, of the same interval, three times.
func (c *tenant) checkNotRead(path string) {
	c.t.Helper()
	other := c.newTenant(c.t)
	other.put("other", "one")
	other.class("other", nil, other.object("password", "other"))
	other.run(newPod("other", printOnce, mounts("other")))
	mark := testkit.Value(c.vault.Mark())(c.t)
	c.until("three refreshes of another volume", func(ctx context.Context) error {
		counts, err := c.vault.CountRequests(ctx, mark)
		if n := counts.Under(kvMount + "/data/" + other.ns + "/"); err == nil && n < 3 {
			err = fmt.Errorf("there are %d", n)
		}
		return err
	})
	counts := testkit.Value(c.vault.CountRequests(c.t.Context(), mark))(c.t)
	if n := counts[path]; n > 0 {
		c.t.Errorf("%s was read %d times", path, n)
	}
}

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

// checkLogs checks the logs of the driver, at level debug and with its audit trail, and of kubelet. It
// returns how many lines of the trail there are: a driver that had no volume yet has none.
func (e *environment) checkLogs(t *testing.T) (lines int) {
	t.Helper()
	files := testkit.Value(filepath.Glob(filepath.Join(filepath.Dir(e.node.AuditLog()), "pods", releaseNamespace+"_*", "*", "*")))(t)
	if len(files) == 0 {
		t.Error("there is no log of the driver")
	}
	for _, file := range append(files, e.node.Log(node.Kubelet)) {
		data := testkit.Value(os.ReadFile(file))(t)
		if found := leaked(data); found != "" {
			t.Errorf("%s holds a secret: %s", file, found)
		}
		lines += audittest.Check(t, data)
	}
	if found := leaked([]byte(e.collector.Text())); found != "" {
		t.Errorf("the traces hold a secret: %s", found)
	}
	return lines
}

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
