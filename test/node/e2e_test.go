//go:build e2e

package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestNode takes one node through its life. Each step starts from the state that the one before it
// left.
func TestNode(t *testing.T) {
	options := Options{Dir: shortDir(t), Out: t.Output()}
	before := machineNow(t)
	t.Cleanup(func() { testkit.Check(t, Down(context.WithoutCancel(t.Context()), options)) })
	n := testkit.Value(Up(t.Context(), options))(t)
	c := newCluster(t, n)
	steps := []struct {
		name string
		run  func(*testing.T, cluster)
	}{
		{"a second up changes nothing", upIsIdempotent},
		{"a scheduled pod completes and its log is read", podCompletes},
		{"a pod off the host's network runs as a user", podIsIsolated},
		{"a namespace is deleted", namespaceGoes},
		{"pods outlive kubelet and containerd", podsOutliveRestarts},
		{"a mount from a container is seen, and lost in a reboot", rebootLosesMounts},
		{"after everything was killed, up makes a new node", crash},
	}
	for _, step := range steps {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, c) }) {
			t.FailNow()
		}
	}
	testkit.Must(t, n.Down(t.Context()))
	checkGone(t, n.layout, before)
}

// TestUpCutShort ends Up at several points, and nothing may run after that.
func TestUpCutShort(t *testing.T) {
	before := machineNow(t)
	for _, step := range []string{"preparing", "starting etcd", "starting the controller manager"} {
		t.Run(step, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			options := Options{Dir: shortDir(t), Out: writerFunc(func(p []byte) (int, error) {
				if strings.Contains(string(p), step) {
					cancel()
				}
				return len(p), nil
			})}
			if _, err := Up(ctx, options); !errors.Is(err, context.Canceled) {
				t.Errorf("up says %v, want that it was cancelled", err)
			}
			l := testkit.Value(newLayout(options.Dir))(t)
			if running, err := processes(l.dir); err != nil || len(running) > 0 {
				t.Errorf("still running: %v, %v", running, err)
			}
			testkit.Must(t, Down(t.Context(), options))
			checkGone(t, l, before)
		})
	}
}

func upIsIdempotent(t *testing.T, c cluster) {
	before := pids(t, c.node)
	testkit.Value(Up(t.Context(), Options{Dir: c.node.dir}))(t)
	if after := pids(t, c.node); !slices.Equal(before, after) {
		t.Errorf("the processes were %v and are %v", before, after)
	}
}

func podCompletes(t *testing.T, c cluster) {
	c.create(t, "default", pod("hello", hostNetwork, command("echo hello; exit 0")))
	c.wait(t, "default", "hello", completed)
	if log := c.log(t, "default", "hello"); log != "hello\n" {
		t.Errorf("the log is %q", log)
	}
}

func podIsIsolated(t *testing.T, c cluster) {
	user, group := int64(1000), int64(2000)
	c.create(t, "default", pod("isolated", command("id -u; id -G; ip route | wc -l"), func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &user, FSGroup: &group}
	}))
	c.wait(t, "default", "isolated", completed)
	if log := c.log(t, "default", "isolated"); log != "1000\n1000 2000\n0\n" {
		t.Errorf("the log is %q", log)
	}
}

func namespaceGoes(t *testing.T, c cluster) {
	namespaces := c.api.CoreV1().Namespaces()
	testkit.Value(namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "short"}}, metav1.CreateOptions{}))(t)
	c.until(t, "the namespace's service account", func(ctx context.Context) error {
		return checkNamespace(ctx, c.api, "short")
	})
	c.create(t, "short", pod("sleeper", hostNetwork, command("sleep 1000")))
	c.wait(t, "short", "sleeper", running)
	testkit.Must(t, namespaces.Delete(t.Context(), "short", metav1.DeleteOptions{}))
	c.until(t, "the namespace to go", func(ctx context.Context) error {
		_, err := namespaces.Get(ctx, "short", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.Join(errors.New("it is still there"), err)
	})
}

func podsOutliveRestarts(t *testing.T, c cluster) {
	c.create(t, "default", pod("lasting", hostNetwork, command("sleep 100000")))
	c.wait(t, "default", "lasting", running)
	before := c.get(t, "default", "lasting").Status.ContainerStatuses[0]
	testkit.Must(t, c.node.Restart(t.Context(), Kubelet))
	testkit.Must(t, c.node.Kill(t.Context(), Containerd))
	testkit.Must(t, c.node.Start(t.Context(), Containerd))
	// A new pod runs only when kubelet and containerd work together again.
	c.create(t, "default", pod("later", hostNetwork, command("true")))
	c.wait(t, "default", "later", completed)
	after := c.get(t, "default", "lasting").Status.ContainerStatuses[0]
	if after.ContainerID != before.ContainerID || after.RestartCount != 0 || after.State.Running == nil {
		t.Errorf("the container was %v and is %v", before, after)
	}
}

func rebootLosesMounts(t *testing.T, c cluster) {
	bidirectional, privileged := corev1.MountPropagationBidirectional, true
	// The second life of the container does not mount.
	script := "test -e /root/mounted && exec sleep 1000; touch /root/mounted; mkdir /root/there && mount -t tmpfs probe /root/there && exec sleep 1000"
	c.create(t, "default", pod("mounter", hostNetwork, command(script), func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyAlways
		p.Spec.Volumes = []corev1.Volume{{Name: "root", VolumeSource: corev1.VolumeSource{
			HostPath: &corev1.HostPathVolumeSource{Path: c.node.KubeletRoot()},
		}}}
		container := &p.Spec.Containers[0]
		container.SecurityContext = &corev1.SecurityContext{Privileged: &privileged}
		container.VolumeMounts = []corev1.VolumeMount{{Name: "root", MountPath: "/root", MountPropagation: &bidirectional}}
	}))
	mounted := filepath.Join(c.node.KubeletRoot(), "there")
	c.until(t, "the mount to be seen outside", func(context.Context) error {
		if points, err := mountsBelow(mounted); err != nil || len(points) != 1 {
			return errors.Join(errors.New("it is not there"), err)
		}
		return nil
	})
	write(t, filepath.Join(c.node.RunDir(), "volatile"), "")

	testkit.Must(t, c.node.Reboot(t.Context()))
	if points, err := mountsBelow(mounted); err != nil || len(points) > 0 {
		t.Errorf("mounted after the reboot: %v, %v", points, err)
	}
	if _, err := os.Stat(filepath.Join(c.node.RunDir(), "volatile")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file in the run directory: %v", err)
	}
	c.wait(t, "default", "mounter", func(p *corev1.Pod) bool {
		return running(p) && p.Status.ContainerStatuses[0].RestartCount == 1
	})
}

func crash(t *testing.T, c cluster) {
	c.create(t, "default", pod("lost", hostNetwork, command("sleep 100000")))
	c.wait(t, "default", "lost", running)
	for _, pid := range pids(t, c.node) {
		testkit.Must(t, unix.Kill(pid, unix.SIGKILL))
	}
	if left := cgroupPids(cgroupRoots(), c.node.cgroup()); len(left) == 0 {
		t.Error("no container outlived the crash, so there is nothing to clean up")
	}
	start := time.Now()
	n := testkit.Value(Up(t.Context(), Options{Dir: c.node.dir, Out: t.Output()}))(t)
	t.Logf("a new node after %s", time.Since(start).Round(time.Millisecond))
	fresh := newCluster(t, n)
	if _, err := fresh.api.CoreV1().Pods("default").Get(t.Context(), "lost", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a pod of the old node: %v", err)
	}
	fresh.create(t, "default", pod("new", hostNetwork, command("true")))
	fresh.wait(t, "default", "new", completed)
}

// stepTimeout bounds each wait for a cluster; nothing takes nearly as long.
const stepTimeout = 90 * time.Second

// cluster is a node as its users see it.
type cluster struct {
	node *Node
	api  kubernetes.Interface
}

func newCluster(t *testing.T, n *Node) cluster {
	t.Helper()
	ask := testkit.Value(n.newClients())(t)
	return cluster{node: n, api: ask.kubernetes}
}

func (c cluster) create(t *testing.T, namespace string, p *corev1.Pod) {
	t.Helper()
	testkit.Value(c.api.CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{}))(t)
}

func (c cluster) get(t *testing.T, namespace, name string) *corev1.Pod {
	t.Helper()
	return testkit.Value(c.api.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{}))(t)
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
	data := testkit.Value(c.api.CoreV1().Pods(namespace).GetLogs(name, &corev1.PodLogOptions{}).DoRaw(t.Context()))(t)
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
	all := testkit.Value(processes(n.dir))(t)
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
	now := testkit.Value(plan(sysctlRoot, layout{}.bindingTargets()))(t)
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
