package tmpfs

import (
	"cmp"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Mount mounts a file system of its own on the directory target. The directory must exist and must
// not be a mount point: ErrNotDirectory, ErrMounted. A failed Mount leaves nothing behind.
func (m *Mounter) Mount(target string, o Options) error {
	path, err := cleanTarget(target)
	if err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return fail("mounting a tmpfs at", path, err)
	}
	d, err := openDirectory(path)
	if err != nil {
		return err
	}
	defer d.close()
	return m.mountAt(d, o)
}

func (m *Mounter) mountAt(d directory, o Options) error {
	c, err := openContext()
	if err != nil {
		return fail("creating a tmpfs for", d.path, err)
	}
	defer c.close()
	list := append([]parameter{{"source", Source}}, o.parameters(m.noSwap)...)
	if err := c.setAll(list); err != nil {
		return fail("creating a tmpfs for", d.path, err)
	}
	fd, err := c.mount()
	if err != nil {
		return fail("creating a tmpfs for", d.path, err)
	}
	// Closing a mount that is not attached removes it.
	defer func() { _ = unix.Close(fd) }()
	return m.attach(d, func() error {
		return unix.MoveMount(fd, "", d.fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	})
}

// attach calls act, which mounts at d, if nothing is mounted there. Another publish of the same
// volume may have attached its mount after d was opened, so attach inspects the path as well; act
// uses the open directory.
func (m *Mounter) attach(d directory, act func() error) error {
	m.attaching.Lock()
	defer m.attaching.Unlock()
	for _, at := range []location{{fd: d.fd}, {fd: unix.AT_FDCWD, path: d.path}} {
		info, err := m.inspect(at)
		if err != nil {
			return failLook("inspecting target", d.path, err)
		}
		if info.Mounted {
			return &ConflictError{Target: d.path, Info: info, kind: ErrMounted}
		}
	}
	if err := act(); err != nil {
		return fail("mounting a tmpfs at", d.path, err)
	}
	return nil
}

// Resize sets new limits for the volume mounted at target, in place, without any effect on pods.
// The kernel refuses limits below what is in use: ErrTooSmall, and nothing changes. The mount's
// other options stay.
func (m *Mounter) Resize(target string, size, inodes int64) error {
	if err := cmp.Or(checkLimit("Size", size), checkLimit("Inodes", inodes)); err != nil {
		return fail("resizing volume", target, err)
	}
	d, info, err := m.openMounted(target, isOurs)
	if err != nil {
		return err
	}
	defer d.close()
	err = reconfigure(d, resizeParameters(info, size, inodes))
	m.list.forget()
	if err == nil {
		return nil
	}
	if errors.Is(err, unix.EINVAL) && overfull(d, size, inodes) {
		err = fmt.Errorf("%w: %w", ErrTooSmall, err)
	}
	return fail("resizing volume", d.path, err)
}

// resizeParameters repeats noswap if the mount has it. The first kernels with that option read its
// absence as a request for swap, and refused the change.
func resizeParameters(info Info, size, inodes int64) []parameter {
	list := limits(size, inodes)
	if info.Has("noswap") {
		list = append(list, parameter{key: "noswap"})
	}
	return list
}

func reconfigure(d directory, list []parameter) error {
	fd, err := unix.Fspick(d.fd, "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return err
	}
	c := fsContext{fd}
	defer c.close()
	if err := c.setAll(list); err != nil {
		return err
	}
	return c.reconfigure()
}

func overfull(d directory, size, inodes int64) bool {
	used, err := measure(d)
	return err == nil && (used.Bytes.Used > size || used.Inodes.Used > inodes)
}

// Unmount removes every mount of this driver at target. It succeeds if the target is not mounted or
// does not exist. If another mount is on top or below, it returns ErrForeign and does not touch
// that mount.
//
// It does not use k8s.io/mount-utils: its Unmount runs the umount binary, follows a symbolic link
// at the target, and gives up when a process still has a file open.
func (m *Mounter) Unmount(target string) error {
	return m.unmount(target, isOurs, m.detaching.detach)
}

// UnmountAny removes every mount at target, of this driver or another. It is for a caller that
// knows from other evidence that the target belongs to the driver, such as a volume that an earlier
// driver of the same name published.
func (m *Mounter) UnmountAny(target string) error {
	return m.unmount(target, func(Info) bool { return true }, detach)
}

// Cleanup does Unmount and then removes the directory. It removes nothing else: for a directory
// that is not empty it returns an error that wraps ENOTEMPTY, for a file or symbolic link
// ErrNotDirectory.
func (m *Mounter) Cleanup(target string) error {
	if err := m.Unmount(target); err != nil {
		return err
	}
	return removeDirectory(target)
}

// CleanupAny does UnmountAny and then removes the directory.
func (m *Mounter) CleanupAny(target string) error {
	if err := m.UnmountAny(target); err != nil {
		return err
	}
	return removeDirectory(target)
}

// maxDisturbed is how often in a row another unmount may come first before unmount gives up.
const maxDisturbed = 5

// unmount removes mounts one by one while allowed returns true.
func (m *Mounter) unmount(target string, allowed func(Info) bool, detach func(path string) error) error {
	path, err := cleanTarget(target)
	if err != nil {
		return err
	}
	for disturbed := 0; ; {
		again, err := m.mayDetach(path, allowed)
		if !again {
			return err
		}
		err = detach(path)
		if err == nil {
			disturbed = 0
			continue
		}
		// EINVAL means "not a mount point" here, but also a mount that a user namespace may not
		// remove.
		disturbed++
		gone := errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT)
		if !gone || disturbed == maxDisturbed {
			return fail("unmounting", path, err)
		}
	}
}

// mayDetach reports whether there is a mount to remove. A dead one cannot be inspected: it is
// removed only if allowed accepts any mount.
func (m *Mounter) mayDetach(path string, allowed func(Info) bool) (bool, error) {
	info, err := m.inspect(location{fd: unix.AT_FDCWD, path: path})
	switch {
	case dead(err) && allowed(Info{}):
		return true, nil
	case err != nil:
		return false, failLook("inspecting target", path, err)
	case !info.Mounted:
		return false, nil
	case !allowed(info):
		return false, &ConflictError{Target: path, Info: info, kind: ErrForeign}
	}
	return true, nil
}

// turns has a place for each unmount at a time.
type turns chan struct{}

// detach is detach for a volume of this driver, of which only a few are detached at a time. Other
// file systems can hang, and must not delay a volume.
func (t turns) detach(path string) error {
	t <- struct{}{}
	defer func() { <-t }()
	return detach(path)
}

// detach unmounts the topmost mount. If the mount is busy, detach removes only its name; the kernel
// frees its memory when the last process closes it.
func detach(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	return err
}

// removeDirectory relies on rmdir(2), which refuses links, files, mount points and directories with
// contents.
func removeDirectory(target string) error {
	path, err := cleanTarget(target)
	if err != nil {
		return err
	}
	err = unix.Rmdir(path)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if errors.Is(err, unix.ENOTDIR) {
		err = notDirectory(path, err)
	}
	return fmt.Errorf("removing directory %q: %w", path, err)
}
