//go:build e2e

package node

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// stepTimeout bounds each wait for a cluster; nothing takes nearly as long.
const stepTimeout = 90 * time.Second

// cluster is a node as its users see it.
type cluster struct {
	node *Node
	api  kubernetes.Interface
}

func newCluster(t *testing.T, n *Node) cluster {
	t.Helper()
	ask, err := n.newClients()
	testkit.Must(t, err)
	return cluster{node: n, api: ask.kubernetes}
}

func (c cluster) create(t *testing.T, namespace string, p *corev1.Pod) {
	t.Helper()
	if _, err := c.api.CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (c cluster) get(t *testing.T, namespace, name string) *corev1.Pod {
	t.Helper()
	p, err := c.api.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
	testkit.Must(t, err)
	return p
}

func (c cluster) wait(t *testing.T, namespace, name string, done func(*corev1.Pod) bool) {
	t.Helper()
	c.until(t, "pod "+name, func(ctx context.Context) error {
		p, err := c.api.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !done(p) {
			return fmt.Errorf("it is %s: %v", p.Status.Phase, p.Status.ContainerStatuses)
		}
		return nil
	})
}

func (c cluster) until(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stepTimeout)
	defer cancel()
	testkit.Must(t, poll(ctx, "waiting for "+what, try))
}

func (c cluster) log(t *testing.T, namespace, name string) string {
	t.Helper()
	data, err := c.api.CoreV1().Pods(namespace).GetLogs(name, &corev1.PodLogOptions{}).DoRaw(t.Context())
	testkit.Must(t, err)
	return string(data)
}

func completed(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded }

func running(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodRunning && p.Status.ContainerStatuses[0].State.Running != nil
}

func pod(name string, options ...func(*corev1.Pod)) *corev1.Pod {
	grace := int64(0)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			RestartPolicy:                 corev1.RestartPolicyNever,
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "main", Image: BusyboxImage, ImagePullPolicy: corev1.PullNever,
			}},
		},
	}
	for _, option := range options {
		option(p)
	}
	return p
}

func hostNetwork(p *corev1.Pod) { p.Spec.HostNetwork = true }

func command(script string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"sh", "-c", script} }
}

// pids are those of all components and their children.
func pids(t *testing.T, n *Node) []int {
	t.Helper()
	all, err := processes(n.dir)
	testkit.Must(t, err)
	var ids []int
	for _, p := range all {
		ids = append(ids, p.pid)
	}
	slices.Sort(ids)
	return ids
}

// machine is what a node changes outside its folder.
type machine struct {
	sysctls     map[string]string
	directories []string
}

func machineNow(t *testing.T) machine {
	t.Helper()
	now, err := plan(sysctlRoot, layout{}.bindingTargets())
	testkit.Must(t, err)
	return machine{sysctls: now.Sysctls, directories: now.Directories}
}

// checkGone looks for anything that a node may have left.
func checkGone(t *testing.T, l layout, before machine) {
	t.Helper()
	if running, err := processes(l.dir); err != nil || len(running) > 0 {
		t.Errorf("processes: %v, %v", running, err)
	}
	if points, err := mountsBelow(l.dir); err != nil || len(points) > 0 {
		t.Errorf("mounts: %v, %v", points, err)
	}
	if left := cgroupDirs(cgroupRoots(), l.cgroup()); len(left) > 0 {
		t.Errorf("cgroups: %v", left)
	}
	if _, err := os.Lstat(l.dir); err == nil {
		t.Errorf("the folder %s is still there", l.dir)
	}
	now := machineNow(t)
	if !slices.Equal(now.directories, before.directories) {
		t.Errorf("absent directories were %v and are %v", before.directories, now.directories)
	}
	for name, value := range before.sysctls {
		if now.sysctls[name] != value {
			t.Errorf("%s was %s and is %s", name, value, now.sysctls[name])
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
