package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Component is one of the processes that make a node.
type Component string

// The components. Each is called like its program.
const (
	Etcd              Component = "etcd"
	Containerd        Component = "containerd"
	APIServer         Component = "kube-apiserver"
	ControllerManager Component = "kube-controller-manager"
	Scheduler         Component = "kube-scheduler"
	Kubelet           Component = "kubelet"
)

// Components lists all components in the order they start in.
func Components() []Component {
	return []Component{Etcd, Containerd, APIServer, ControllerManager, Scheduler, Kubelet}
}

const (
	kubeletPort  = 10250
	logTailBytes = 4 << 10
)

// arguments is a component's command line.
func (l layout) arguments(c Component) []string {
	switch c {
	case Etcd:
		return l.etcdArguments()
	case Containerd:
		return []string{"--config=" + l.path("containerd.toml")}
	case APIServer:
		return l.apiServerArguments()
	case ControllerManager:
		return []string{
			"--kubeconfig=" + l.pki(string(ControllerManager)+".conf"),
			"--service-account-private-key-file=" + l.pki("service-accounts.key"),
			"--root-ca-file=" + l.pki("ca.crt"),
			"--use-service-account-credentials",
			"--leader-elect=false",
			"--secure-port=0",
			"--flex-volume-plugin-dir=" + l.path("volumeplugins"),
		}
	case Scheduler:
		return []string{
			"--kubeconfig=" + l.pki(string(Scheduler)+".conf"),
			"--leader-elect=false",
			"--secure-port=0",
		}
	case Kubelet:
		return []string{
			"--config=" + l.path("kubelet.yaml"),
			"--kubeconfig=" + l.pki(string(Kubelet)+".conf"),
			"--root-dir=" + l.kubeletRoot(),
			"--cert-dir=" + l.path("pki"),
			"--hostname-override=" + l.address(),
			"--v=2",
		}
	}
	return nil
}

func (l layout) etcdArguments() []string {
	client := "https://" + l.address() + ":2379"
	peer := "https://" + l.address() + ":2380"
	return []string{
		"--name=mayfly-node",
		"--data-dir=" + l.path("etcd"),
		"--listen-client-urls=" + client,
		"--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer,
		"--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=mayfly-node=" + peer,
		"--cert-file=" + l.pki("etcd.crt"),
		"--key-file=" + l.pki("etcd.key"),
		"--trusted-ca-file=" + l.pki("etcd-ca.crt"),
		"--client-cert-auth",
		"--peer-cert-file=" + l.pki("etcd.crt"),
		"--peer-key-file=" + l.pki("etcd.key"),
		"--peer-trusted-ca-file=" + l.pki("etcd-ca.crt"),
		"--peer-client-cert-auth",
	}
}

func (l layout) apiServerArguments() []string {
	return []string{
		"--bind-address=" + l.address(),
		"--advertise-address=" + l.address(),
		"--secure-port=443",
		"--service-cluster-ip-range=" + l.serviceRange(),
		// The service's address is the server's own; an endpoint may not be a
		// loopback address.
		"--endpoint-reconciler-type=none",
		"--tls-cert-file=" + l.pki("apiserver.crt"),
		"--tls-private-key-file=" + l.pki("apiserver.key"),
		"--client-ca-file=" + l.pki("ca.crt"),
		"--etcd-servers=https://" + l.address() + ":2379",
		"--etcd-cafile=" + l.pki("etcd-ca.crt"),
		"--etcd-certfile=" + l.pki("etcd.crt"),
		"--etcd-keyfile=" + l.pki("etcd.key"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + l.pki("service-accounts.crt"),
		"--service-account-signing-key-file=" + l.pki("service-accounts.key"),
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--kubelet-preferred-address-types=Hostname",
		"--kubelet-certificate-authority=" + l.pki("ca.crt"),
		"--kubelet-client-certificate=" + l.pki("apiserver-kubelet.crt"),
		"--kubelet-client-key=" + l.pki("apiserver-kubelet.key"),
		"--audit-policy-file=" + l.path("audit.yaml"),
		"--audit-log-path=" + l.path("log", "audit.log"),
		"--profiling=false",
		"--v=2",
	}
}

// start starts a component in a session of its own, so that it outlives the starter and its
// terminal, with its output in its log.
func (n *Node) start(ctx context.Context, c Component) error {
	log, err := os.OpenFile(n.log(c), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("opening the log of %s: %w", c, err)
	}
	defer log.Close()
	cmd := exec.Command(n.programs[string(c)], n.arguments(c)...)
	cmd.Dir = n.dir
	cmd.Env = []string{
		"PATH=" + systemPath,
		"HOME=" + n.dir,
		"TMPDIR=" + n.path("tmp"),
		envDir + "=" + n.dir,
		envComponent + "=" + string(c),
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c == Containerd || c == Kubelet {
		err = startBound(cmd, n.bindings())
	} else {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("starting %s: %w", c, err)
	}
	if err := awaitMark(ctx, cmd.Process.Pid); err != nil {
		return n.failure(c, fmt.Errorf("starting %s: %w", c, err))
	}
	return nil
}

// awaitMark waits until a new process can be told by its environment: for a
// moment of every exec the kernel shows an empty one.
func awaitMark(ctx context.Context, pid int) error {
	return poll(ctx, "waiting for the program to run", func(context.Context) error {
		if ended, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != nil || ended == pid {
			return fatal(errors.Join(errors.New("it has exited"), err))
		}
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && len(environ) == 0 {
			return errors.New("it has no environment yet")
		}
		return err
	})
}

// failure is an error of a component, together with the end of its log.
func (l layout) failure(c Component, err error) error {
	tail, logErr := l.tail(c)
	if logErr != nil {
		return errors.Join(err, logErr)
	}
	return fmt.Errorf("%w\n--- the end of %s\n%s", err, l.log(c), tail)
}

func (l layout) tail(c Component) (string, error) {
	data, err := os.ReadFile(l.log(c))
	if err != nil {
		return "", fmt.Errorf("reading the log of %s: %w", c, err)
	}
	text := string(data)
	if len(text) > logTailBytes {
		text = text[len(text)-logTailBytes:]
		_, text, _ = strings.Cut(text, "\n")
	}
	return text, nil
}

// boot makes a node in an empty folder.
func (n *Node) boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	n.say("preparing %s", n.dir)
	if err := n.prepare(); err != nil {
		return err
	}
	if err := n.checkPorts(ctx); err != nil {
		return err
	}
	n.say("starting etcd, the API server and containerd")
	for _, c := range []Component{Etcd, APIServer, Containerd} {
		if err := n.start(ctx, c); err != nil {
			return err
		}
	}
	both, bothCtx := errgroup.WithContext(ctx)
	both.Go(func() error { return n.await(bothCtx, APIServer) })
	both.Go(func() error { return n.loadBaseImages(bothCtx) })
	if err := both.Wait(); err != nil {
		return err
	}
	n.say("starting the controller manager, the scheduler and kubelet")
	for _, c := range []Component{Kubelet, ControllerManager, Scheduler} {
		if err := n.start(ctx, c); err != nil {
			return err
		}
	}
	for _, c := range Components() {
		if err := n.await(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) loadBaseImages(ctx context.Context) error {
	if err := n.await(ctx, Containerd); err != nil {
		return err
	}
	images, err := baseImages(ctx, n.programs["busybox"])
	if err != nil {
		return err
	}
	for _, image := range images {
		if err := n.AddImage(ctx, image); err != nil {
			return n.failure(Containerd, err)
		}
	}
	return nil
}

// prepare makes the folder and the requirements on the machine.
func (n *Node) prepare() error {
	if err := os.MkdirAll(n.dir, 0o711); err != nil {
		return fmt.Errorf("making the node's folder: %w", err)
	}
	// The mark comes first: from here on a clean-up may delete the contents.
	if err := os.WriteFile(n.marker(), nil, 0o644); err != nil {
		return fmt.Errorf("marking the node's folder: %w", err)
	}
	if err := share(n.dir); err != nil {
		return err
	}
	for _, dir := range []string{"run", "log", "tmp", "kubelet", "manifests", "volumeplugins"} {
		if err := os.MkdirAll(n.path(dir), 0o755); err != nil {
			return fmt.Errorf("making a folder of the node: %w", err)
		}
	}
	for _, dir := range []string{"pki", "etcd"} {
		if err := os.MkdirAll(n.path(dir), 0o700); err != nil {
			return fmt.Errorf("making a folder of the node: %w", err)
		}
	}
	if err := n.noteChanges(); err != nil {
		return err
	}
	if err := makeCgroup(n.cgroup()); err != nil {
		return err
	}
	if err := n.writeCredentials(); err != nil {
		return err
	}
	if err := n.writePrograms(); err != nil {
		return err
	}
	return n.writeConfig()
}

func (n *Node) writePrograms() error {
	data, err := json.Marshal(n.programs)
	if err != nil {
		return fmt.Errorf("encoding the node's programs: %w", err)
	}
	if err := os.WriteFile(n.path("programs.json"), data, 0o644); err != nil {
		return fmt.Errorf("noting the node's programs: %w", err)
	}
	return nil
}

// checkPorts fails early, and by name, where something else listens on every
// address of the machine.
func (n *Node) checkPorts(ctx context.Context) error {
	for port, c := range map[int]Component{443: APIServer, 2379: Etcd, 2380: Etcd, kubeletPort: Kubelet} {
		var config net.ListenConfig
		listener, err := config.Listen(ctx, "tcp", net.JoinHostPort(n.address(), strconv.Itoa(port)))
		if err != nil {
			return fmt.Errorf("checking that port %d is free for %s: %w", port, c, err)
		}
		listener.Close()
	}
	return nil
}
