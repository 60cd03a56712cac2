// Package node runs a real Kubernetes node on this machine: etcd, the API server, the controller
// manager, the scheduler, containerd and a kubelet, with all their files in one folder and all
// their listeners on a loopback address. It is for tests and for developers: Up makes a new cluster
// in well under a minute, Down removes all of it, and in between its components can be stopped,
// killed and started like those of a failing cluster.
package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotUp is the error of Attach where no node is.
var ErrNotUp = errors.New("there is no node")

const (
	startTimeout = 90 * time.Second
	haltTimeout  = 30 * time.Second
)

// Options say where the node is to be.
type Options struct {
	// Dir has all state. Empty means DefaultDir. It must be empty, absent, or a node's already.
	Dir string
	// Out receives the progress, line by line. It may be nil.
	Out io.Writer
}

// Node is a node that Up has started. Its methods that change something may be
// called from several goroutines, but not for the same component at once.
type Node struct {
	layout
	programs programs
	out      io.Writer
}

// Up returns a node that is ready. It keeps a healthy running node and its contents; any other is
// cleaned up and made again. If Up fails, nothing runs, and the logs stay.
func Up(ctx context.Context, options Options) (*Node, error) {
	n, err := newNode(options)
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("running a node needs root: containers, mounts and cgroups are made")
	}
	unlock, err := n.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if n.programs, err = findPrograms(ctx, n.out); err != nil {
		return nil, err
	}
	start := time.Now()
	if n.healthy(ctx) {
		n.say("already up, state in %s", n.dir)
		return n, nil
	}
	if err := n.cleanUp(ctx); err != nil {
		return nil, fmt.Errorf("cleaning up what an earlier node left: %w", err)
	}
	if err := n.boot(ctx); err != nil {
		n.say("failed; stopping everything, the logs stay in %s", n.path("log"))
		// The cause may be that ctx has ended.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), haltTimeout)
		defer cancel()
		return nil, errors.Join(err, n.halt(ctx))
	}
	n.say("ready after %s", time.Since(start).Round(100*time.Millisecond))
	return n, nil
}

// Attach returns the node that runs in the folder, in any state.
func Attach(options Options) (*Node, error) {
	n, err := newNode(options)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(n.path("programs.json"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("looking in %s: %w", n.dir, ErrNotUp)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the node's programs: %w", err)
	}
	if err := json.Unmarshal(data, &n.programs); err != nil {
		return nil, fmt.Errorf("decoding %s: %w", n.path("programs.json"), err)
	}
	return n, nil
}

func newNode(options Options) (*Node, error) {
	l, err := newLayout(options.Dir)
	if err != nil {
		return nil, err
	}
	out := options.Out
	if out == nil {
		out = io.Discard
	}
	return &Node{layout: l, out: &lineWriter{w: out}}, nil
}

// lineWriter lets concurrent steps report.
type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (n *Node) say(format string, args ...any) {
	fmt.Fprintf(n.out, "node: "+format+"\n", args...)
}

// Name is the node's name in Kubernetes, which is its IP address too.
func (n *Node) Name() string { return n.address() }

// Server is the API server's URL, here and in every pod on the host's network.
func (n *Node) Server() string { return n.server() }

// Kubeconfig is the path of a kubeconfig that may do anything.
func (n *Node) Kubeconfig() string { return n.kubeconfig() }

// CAFile is the path of the certificate that the API server's is signed by.
func (n *Node) CAFile() string { return n.pki("ca.crt") }

// Kubectl is the path of a kubectl of the cluster's version.
func (n *Node) Kubectl() string { return n.programs["kubectl"] }

// KubeletRoot replaces /var/lib/kubelet. It is on a shared mount.
func (n *Node) KubeletRoot() string { return n.kubeletRoot() }

// StaticPods is the folder whose pods kubelet runs without an API server.
func (n *Node) StaticPods() string { return n.path("manifests") }

// RunDir replaces /run: Reboot empties it.
func (n *Node) RunDir() string { return n.run() }

// AuditLog is the path of the API server's audit log.
func (n *Node) AuditLog() string { return n.path("log", "audit.log") }

// Log is the path of a component's log.
func (n *Node) Log(c Component) string { return n.log(c) }

// lock excludes other processes that start or stop the same node. An abstract socket leaves no
// file, and ends with its process.
func (l layout) lock(ctx context.Context) (unlock func(), err error) {
	var listener net.Listener
	err = poll(ctx, "waiting for another command on the same node", func(ctx context.Context) error {
		var config net.ListenConfig
		listener, err = config.Listen(ctx, "unix", "@"+l.cgroup())
		if err != nil && !errors.Is(err, unix.EADDRINUSE) {
			return fatal(err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return func() { listener.Close() }, nil
}
