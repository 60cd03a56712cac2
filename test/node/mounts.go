package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// share mounts the folder over itself as a shared mount, which mount propagation between containers
// and kubelet requires. It does not affect the rest of the machine, whether / is shared or not:
// since it is made private first, the new mount has no peers. Flags of the mount of /tmp, such as
// noexec, do not apply inside.
func share(dir string) error {
	steps := []struct {
		source string
		flags  uintptr
	}{
		{dir, unix.MS_BIND},
		{"", unix.MS_PRIVATE},
		{"", unix.MS_SHARED},
		{"", unix.MS_BIND | unix.MS_REMOUNT},
	}
	for _, step := range steps {
		if err := unix.Mount(step.source, dir, "", step.flags, ""); err != nil {
			return fmt.Errorf("making %s a shared mount: %w", dir, err)
		}
	}
	return nil
}

// mountsBelow lists the mount points below dir, and dir itself if it is one,
// the last one made first.
func mountsBelow(dir string) ([]string, error) {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return nil, fmt.Errorf("listing mounts below %s: %w", dir, err)
	}
	points := make([]string, 0, len(infos))
	for _, info := range infos {
		points = append(points, info.Mountpoint)
	}
	slices.Reverse(points)
	return points, nil
}

// unmountBelow removes the mounts below dir, except those for which keep returns true.
func unmountBelow(dir string, keep func(point string) bool) error {
	points, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, point := range points {
		if keep(point) {
			continue
		}
		err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		// A mount that propagation took with another one is gone already.
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmounting %s: %w", point, err)
		}
	}
	return nil
}

// removeTree deletes dir, and refuses while anything is mounted in it, because the mount may have
// other data.
func removeTree(dir string) error {
	points, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	if len(points) > 0 {
		return fmt.Errorf("removing %s: still mounted: %q", dir, points)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing the node's files: %w", err)
	}
	return nil
}

// binding shows a directory of the node at a path of the machine.
type binding struct {
	target, source string
}

// bindings cover the paths that kubelet and containerd use whatever their settings: device plugins,
// links to logs, sockets of shims, CNI results. The machine's own kubelet or containerd keeps its
// own.
func (l layout) bindings() []binding {
	return []binding{
		{"/var/lib/kubelet", l.path("machine", "kubelet")},
		{"/var/lib/cni", l.path("machine", "cni")},
		{"/var/log/containers", l.path("machine", "containers")},
		{"/run/containerd", l.path("run", "shims")},
		{"/run/mount", l.path("run", "mount")},
	}
}

func (l layout) bindingTargets() []string {
	var targets []string
	for _, b := range l.bindings() {
		targets = append(targets, b.target)
	}
	return targets
}

// startBound starts a command in a mount namespace of its own with the
// bindings. Mounts below the node's folder, which is a shared mount, are seen
// on both sides all the same.
func startBound(cmd *exec.Cmd, bindings []binding) error {
	for _, b := range bindings {
		if err := os.MkdirAll(b.source, 0o755); err != nil {
			return fmt.Errorf("making a folder of the node: %w", err)
		}
	}
	started := make(chan error)
	go func() {
		// The child inherits the namespace of the thread it is forked from. The
		// thread is never unlocked, so it ends with this goroutine.
		runtime.LockOSThread()
		err := bind(bindings)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
	}()
	return <-started
}

// bind gives the calling thread a mount namespace with the bindings.
func bind(bindings []binding) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("making a mount namespace: %w", err)
	}
	mounts, err := mountinfo.GetMounts(nil)
	if err != nil {
		return fmt.Errorf("listing mounts: %w", err)
	}
	for _, b := range bindings {
		target, err := filepath.EvalSymlinks(b.target)
		if err != nil {
			return fmt.Errorf("finding the directory to bind: %w", err)
		}
		// Where systemd runs, / is shared, and what is mounted here would appear
		// there. Only this one mount is cut off, not the node's folder.
		if err := unix.Mount("", mountOf(mounts, target), "", unix.MS_SLAVE, ""); err != nil {
			return fmt.Errorf("cutting off the mount of %s: %w", b.target, err)
		}
		if err := unix.Mount(b.source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("binding %s to %s: %w", b.target, b.source, err)
		}
		if err := unix.Mount("", target, "", unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("keeping %s to the namespace: %w", b.target, err)
		}
	}
	return nil
}

// mountOf returns the mount point of the mount that a path is on.
func mountOf(mounts []*mountinfo.Info, path string) string {
	longest := slices.MaxFunc(mounts, func(a, b *mountinfo.Info) int {
		return covering(a.Mountpoint, path) - covering(b.Mountpoint, path)
	})
	return longest.Mountpoint
}

// covering is the length of a mount point that path is at or below, else -1.
func covering(point, path string) int {
	if point == "/" || point == path || strings.HasPrefix(path, point+"/") {
		return len(point)
	}
	return -1
}
