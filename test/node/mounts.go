package node

import (
	"errors"
	"fmt"
	"os"
	"slices"

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
