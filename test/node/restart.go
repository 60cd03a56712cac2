package node

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

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
	if err := unmountBelow(n.dir, func(point string) bool { return point == n.dir }); err != nil {
		return err
	}
	err := poll(ctx, "removing cgroups", func(context.Context) error {
		return removeCgroup(cgroupRoots(), n.cgroup())
	})
	if err != nil {
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
