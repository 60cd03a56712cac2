package node

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strconv"

	"golang.org/x/sync/errgroup"
)

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
