//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/test/node"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

type podStatus = v1.SecretProviderClassPodStatus

// awaitStatus waits until wanted accepts the status of the pod's only class.
func (c *tenant) awaitStatus(pod *corev1.Pod, wanted func(podStatus) error) (found podStatus) {
	c.t.Helper()
	c.until("the status of pod "+pod.Name, func(ctx context.Context) error {
		all, err := c.statuses(ctx, pod.Name)
		if err != nil {
			return err
		}
		for _, s := range all {
			found = s
			return wanted(s)
		}
		return errors.New("there is none")
	})
	return found
}

func (c *tenant) start(pod *corev1.Pod) *corev1.Pod {
	c.t.Helper()
	return testkit.Value(c.api.CoreV1().Pods(c.ns).Create(c.t.Context(), pod, metav1.CreateOptions{}))(c.t)
}

func (c *tenant) run(pod *corev1.Pod) *corev1.Pod {
	c.t.Helper()
	c.start(pod)
	return c.awaitPod(pod.Name, isRunning)
}

func (c *tenant) awaitPod(name string, done func(*corev1.Pod) error) (pod *corev1.Pod) {
	c.t.Helper()
	c.until("pod "+name, func(ctx context.Context) (err error) {
		if pod, err = c.api.CoreV1().Pods(c.ns).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		return done(pod)
	})
	return pod
}

func (c *tenant) delete(name string) {
	c.t.Helper()
	testkit.Must(c.t, c.api.CoreV1().Pods(c.ns).Delete(c.t.Context(), name, metav1.DeleteOptions{}))
	c.awaitGone(name)
}

func (c *tenant) awaitGone(name string) {
	c.t.Helper()
	c.until("pod "+name+" to go", func(ctx context.Context) error {
		_, err := c.api.CoreV1().Pods(c.ns).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is still there"), err)
	})
}

// log is the present log of the pod's container.
func (c *tenant) log(ctx context.Context, pod string) (string, error) {
	data, err := c.api.CoreV1().Pods(c.ns).GetLogs(pod, &corev1.PodLogOptions{}).DoRaw(ctx)
	return string(data), err
}

// awaitLog waits until the pod's log equals want.
func (c *tenant) awaitLog(pod, want string) {
	c.t.Helper()
	c.until("the log of pod "+pod, func(ctx context.Context) error {
		got, err := c.log(ctx, pod)
		if err == nil && got != want {
			err = fmt.Errorf("it is %q, want %q", got, want)
		}
		return err
	})
}

func (c *tenant) awaitEvent(pod, reason string, words ...string) corev1.Event {
	c.t.Helper()
	var found corev1.Event
	c.until(fmt.Sprintf("event %s on pod %s with %q", reason, pod, words), func(ctx context.Context) error {
		events, err := c.events(ctx, c.ns, pod)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.Reason == reason && containsAll(e.Message, words) {
				found = e
				return nil
			}
		}
		return fmt.Errorf("there are only %s", describe(events))
	})
	return found
}

func describe(events []corev1.Event) string {
	var text []string
	for _, e := range events {
		text = append(text, fmt.Sprintf("%s: %q", e.Reason, e.Message))
	}
	return strings.Join(text, ", ")
}

func containsAll(text string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}

// volume is where the node has a volume of a pod.
func (c *tenant) volume(pod *corev1.Pod, name string) string {
	return filepath.Join(c.node.KubeletRoot(), "pods", string(pod.UID), "volumes", "kubernetes.io~csi", name, "mount")
}

// awaitFile waits until the file in the pod's volume has a value. It reads the node's mount, so it works
// while the API server is down.
func (c *tenant) awaitFile(pod *corev1.Pod, value string) {
	c.t.Helper()
	file := filepath.Join(c.volume(pod, volumeName), "password")
	c.until("the file to hold "+value, func(context.Context) error {
		got, err := os.ReadFile(file)
		if err == nil && string(got) != marker+value {
			err = fmt.Errorf("it holds %q", got)
		}
		return err
	})
}

func (c *tenant) checkFile(pod *corev1.Pod, value string) {
	c.t.Helper()
	got, err := os.ReadFile(filepath.Join(c.volume(pod, volumeName), "password"))
	if err != nil || string(got) != marker+value {
		c.t.Errorf("the file holds %q, %v, want %q", got, err, marker+value)
	}
}

func (c *tenant) touch(pod *corev1.Pod, volume, name string) {
	c.t.Helper()
	dir := filepath.Join(c.node.KubeletRoot(), "pods", string(pod.UID), "volumes", "kubernetes.io~empty-dir", volume)
	testkit.Must(c.t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
}

const (
	volumeName = "secrets"
	mountPath  = "/secrets"
	// printOnce prints the file and sleeps.
	printOnce = `cat /secrets/password && echo && exec sleep 100000`
	// printChanges keeps the volume as its working directory, and prints the file at every change.
	printChanges = `cd /secrets || exit 1
while :; do
	now=$(cat password 2>&1)
	[ "$now" = "$last" ] || { echo "$now"; last=$now; }
	sleep 0.2
done`
)

func newPod(name, script string, options ...func(*corev1.Pod)) *corev1.Pod {
	// With 0 the API server would delete the pod before kubelet has stopped it.
	grace := int64(1)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			ServiceAccountName:            account,
			HostNetwork:                   true,
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "main", Image: node.BusyboxImage, ImagePullPolicy: corev1.PullNever,
				Command: []string{"sh", "-c", script},
			}},
		},
	}
	for _, option := range options {
		option(pod)
	}
	return pod
}

func mounts(class string) func(*corev1.Pod) { return mountsAt(volumeName, mountPath, class) }

func mountsAt(volume, path, class string) func(*corev1.Pod) {
	readOnly := true
	return func(pod *corev1.Pod) {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{
			CSI: &corev1.CSIVolumeSource{
				Driver: driverName, ReadOnly: &readOnly, VolumeAttributes: map[string]string{"secretProviderClass": class},
			},
		}})
		container := &pod.Spec.Containers[0]
		container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: path, ReadOnly: true})
	}
}

func as(serviceAccount string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.ServiceAccountName = serviceAccount }
}

func once(pod *corev1.Pod) { pod.Spec.RestartPolicy = corev1.RestartPolicyNever }

func user(id, group int64) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &id, RunAsGroup: &id, FSGroup: &group}
	}
}

func labelled(labels map[string]string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Labels = maps.Clone(labels) }
}

func isRunning(pod *corev1.Pod) error {
	if s := pod.Status.ContainerStatuses; pod.Status.Phase == corev1.PodRunning && len(s) > 0 && s[0].State.Running != nil {
		return nil
	}
	return fmt.Errorf("it is %s: %v", pod.Status.Phase, pod.Status.ContainerStatuses)
}

func hasSucceeded(pod *corev1.Pod) error {
	if pod.Status.Phase == corev1.PodSucceeded {
		return nil
	}
	return fmt.Errorf("it is %s: %v", pod.Status.Phase, pod.Status.ContainerStatuses)
}

func withoutGroup(pod *corev1.Pod) { pod.Spec.SecurityContext.FSGroup = nil }
