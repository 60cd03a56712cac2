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

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/test/audittest"
	"github.com/mayfly-csi/mayfly/test/node"
	"github.com/mayfly-csi/mayfly/test/testkit"
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
	mark, err := c.vault.Mark()
	testkit.Must(c.t, err)
	template := newPod("", `cat /secrets/password`, once, mounts("db"))
	_, err = c.api.BatchV1().Jobs(c.ns).Create(c.t.Context(), &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "job"},
		Spec:       batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: template.Spec}},
	}, metav1.CreateOptions{})
	testkit.Must(c.t, err)
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

// checkLogs checks the logs of the driver, at level debug and with its audit trail, and of kubelet.
func (e *environment) checkLogs(t *testing.T) {
	t.Helper()
	files := testkit.Value(filepath.Glob(filepath.Join(filepath.Dir(e.node.AuditLog()), "pods", releaseNamespace+"_*", "*", "*")))(t)
	if len(files) == 0 {
		t.Error("there is no log of the driver")
	}
	lines := 0
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
	if lines == 0 {
		t.Error("there is no audit trail in the driver's logs")
	}
}
