package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// checkTimeout bounds one check of a component.
const checkTimeout = 5 * time.Second

// clients ask the API server and kubelet, as the cluster's administrator.
type clients struct {
	kubernetes kubernetes.Interface
	kubelet    *http.Client
}

func (l layout) newClients() (clients, error) {
	config, err := clientcmd.BuildConfigFromFlags("", l.kubeconfig())
	if err != nil {
		return clients{}, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.Timeout = checkTimeout
	config.QPS = -1
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		return clients{}, fmt.Errorf("making a client of the API server: %w", err)
	}
	kubelet, err := rest.HTTPClientFor(config)
	if err != nil {
		return clients{}, fmt.Errorf("making a client of kubelet: %w", err)
	}
	return clients{kubernetes: api, kubelet: kubelet}, nil
}

// await waits until a component that was started is ready. If it exits or is
// late, the error ends with its log's last lines.
func (n *Node) await(ctx context.Context, c Component) error {
	ask, err := n.newClients()
	if err != nil {
		return err
	}
	err = poll(ctx, fmt.Sprintf("waiting for %s", c), func(ctx context.Context) error {
		pid, err := n.pidOf(c)
		if err != nil {
			return fatal(err)
		}
		if pid == 0 {
			return fatal(errors.New("it has exited"))
		}
		return n.check(ctx, ask, c)
	})
	if err != nil {
		return n.failure(c, err)
	}
	return nil
}

// check asks a component whether it does its work. Of etcd and the scheduler
// it is enough that they run: the API server is not ready without the one, and
// the other has no port.
func (n *Node) check(ctx context.Context, ask clients, c Component) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	switch c {
	case Containerd:
		if out, err := n.ctr(ctx, "version").CombinedOutput(); err != nil {
			return fmt.Errorf("asking containerd's version: %w: %s", err, bytes.TrimSpace(out))
		}
	case APIServer:
		if err := ask.kubernetes.CoreV1().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
			return fmt.Errorf("asking the API server whether it is ready: %w", err)
		}
	case ControllerManager:
		return checkNamespace(ctx, ask.kubernetes, metav1.NamespaceDefault)
	case Kubelet:
		// The API server's state of the node may be older than this kubelet.
		if err := checkKubelet(ctx, ask.kubelet, n.address()); err != nil {
			return err
		}
		return checkNode(ctx, ask.kubernetes, n.Name())
	case Etcd, Scheduler:
	}
	return nil
}

func checkKubelet(ctx context.Context, client *http.Client, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("https://%s:%d/healthz", address, kubeletPort), nil)
	if err != nil {
		return fatal(fmt.Errorf("making a request to kubelet: %w", err))
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("asking kubelet whether it is healthy: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		return fmt.Errorf("asking kubelet whether it is healthy: %s: %s", response.Status, body)
	}
	return nil
}

// checkNamespace reports whether pods can be made in a namespace: admission requires their service
// account, and kubelet mounts the cluster's CA for them.
func checkNamespace(ctx context.Context, client kubernetes.Interface, namespace string) error {
	if _, err := client.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{}); err != nil {
		return fmt.Errorf("getting the default service account: %w", err)
	}
	if _, err := client.CoreV1().ConfigMaps(namespace).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{}); err != nil {
		return fmt.Errorf("getting the cluster's CA: %w", err)
	}
	return nil
}

func checkNode(ctx context.Context, client kubernetes.Interface, name string) error {
	node, err := client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("getting the node: %w", err)
	}
	if len(node.Spec.Taints) > 0 {
		return fmt.Errorf("the node has the taint %s", node.Spec.Taints[0].ToString())
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type != corev1.NodeReady {
			continue
		}
		if condition.Status == corev1.ConditionTrue {
			return nil
		}
		return fmt.Errorf("the node is not ready: %s", condition.Message)
	}
	return errors.New("the node has not said whether it is ready")
}

// healthy reports whether a whole node runs.
func (n *Node) healthy(ctx context.Context) bool {
	if _, err := os.Stat(n.marker()); err != nil {
		return false
	}
	ask, err := n.newClients()
	if err != nil {
		return false
	}
	for _, c := range Components() {
		if pid, err := n.pidOf(c); err != nil || pid == 0 {
			return false
		}
		if err := n.check(ctx, ask, c); err != nil {
			return false
		}
	}
	return true
}

// Status is the state of a component.
type Status struct {
	Component Component
	Pid       int   // 0 if it does not run
	Err       error // why it is not ready, nil if it is
}

// Status checks every component.
func (n *Node) Status(ctx context.Context) ([]Status, error) {
	ask, err := n.newClients()
	if err != nil {
		return nil, err
	}
	var all []Status
	for _, c := range Components() {
		pid, err := n.pidOf(c)
		if err != nil {
			return nil, err
		}
		status := Status{Component: c, Pid: pid, Err: errors.New("it does not run")}
		if pid != 0 {
			status.Err = n.check(ctx, ask, c)
		}
		all = append(all, status)
	}
	return all, nil
}

// Stop asks a component to end and waits until it has. Containers outlive both
// kubelet and containerd.
func (n *Node) Stop(ctx context.Context, c Component) error {
	return n.signal(ctx, c, unix.SIGTERM)
}

// Kill kills a component without notice.
func (n *Node) Kill(ctx context.Context, c Component) error {
	return n.signal(ctx, c, unix.SIGKILL)
}

// Start starts a component that does not run, and waits until it is ready.
// Whether kubelet and the controller manager are can only be seen while the
// API server runs.
func (n *Node) Start(ctx context.Context, c Component) error {
	pid, err := n.pidOf(c)
	if err != nil {
		return err
	}
	if pid == 0 {
		if err := n.start(ctx, c); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return n.await(ctx, c)
}

// Restart is Stop and Start.
func (n *Node) Restart(ctx context.Context, c Component) error {
	if err := n.Stop(ctx, c); err != nil {
		return err
	}
	return n.Start(ctx, c)
}

// Reboot has the same effect on the pods as a power failure of the machine: kubelet, containerd and
// every container die at once, all mounts below the folder are gone, RunDir is empty, and then
// kubelet and containerd start with what is on disk. The control plane runs on, as that of a
// cluster would. The caller must kill a driver that is a process of the host.
func (n *Node) Reboot(ctx context.Context) error {
	n.say("rebooting: everything but the control plane dies")
	if err := n.killWorkers(ctx); err != nil {
		return err
	}
	if err := n.release(ctx, func(point string) bool { return point == n.dir }); err != nil {
		return err
	}
	if err := removeTree(n.run()); err != nil {
		return err
	}
	if err := os.Mkdir(n.run(), 0o755); err != nil {
		return fmt.Errorf("making the run directory: %w", err)
	}
	if err := makeCgroup(n.cgroup()); err != nil {
		return err
	}
	for _, c := range []Component{Containerd, Kubelet} {
		if err := n.Start(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// killWorkers kills kubelet, containerd, their children, and all containers.
func (n *Node) killWorkers(ctx context.Context) error {
	return poll(ctx, "killing kubelet, containerd and all containers", func(context.Context) error {
		running, err := processes(n.dir)
		if err != nil {
			return err
		}
		pids := cgroupPids(cgroupRoots(), n.cgroup())
		for _, p := range running {
			if p.component == Kubelet || p.component == Containerd {
				pids = append(pids, p.pid)
			}
		}
		return killPids(pids)
	})
}
