package tmpfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Unmount removes every mount of this driver at target. A target that is not
// mounted, or does not exist, is fine. If another mount is on top or left
// over, the answer is ErrForeign, and that mount is not touched.
//
// k8s.io/mount-utils is no help with the act: its Unmount runs the umount
// binary, follows a symbolic link at the target, and gives up when a process
// still has a file open.
func (m *Mounter) Unmount(target string) error {
	return m.unmount(target, func(i Info) bool { return i.Ours })
}

// UnmountAny removes every mount at target, whoever made it. It is for a
// caller that owns the target by other evidence, such as a volume that an
// earlier driver of the same name had published.
func (m *Mounter) UnmountAny(target string) error {
	return m.unmount(target, func(Info) bool { return true })
}

// Cleanup is Unmount, and removes the directory. It removes nothing else: a
// directory that is not empty stays, with its contents, and is an error that
// wraps ENOTEMPTY; a file or symbolic link stays and is ErrNotDirectory.
func (m *Mounter) Cleanup(target string) error {
	if err := m.Unmount(target); err != nil {
		return err
	}
	return removeDirectory(target)
}

// CleanupAny is to Cleanup what UnmountAny is to Unmount.
func (m *Mounter) CleanupAny(target string) error {
	if err := m.UnmountAny(target); err != nil {
		return err
	}
	return removeDirectory(target)
}

// maxDisturbed is how often in a row an unmount may find that someone else was
// quicker, before it gives up.
const maxDisturbed = 5

// unmount takes mounts off one by one as long as allowed agrees.
func (m *Mounter) unmount(target string, allowed func(Info) bool) error {
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
		// EINVAL is the word for "not a mount point" here, but also for a mount
		// that a user namespace may not remove.
		disturbed++
		gone := errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT)
		if !gone || disturbed == maxDisturbed {
			return fail("unmounting", path, err)
		}
	}
}

// mayDetach tells whether there is a mount to take off. One that is dead cannot
// be inspected: it goes only if any mount may go.
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

// detach unmounts the topmost mount; when it is busy, only its name goes now,
// and its memory with the last process that uses it.
func detach(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	return err
}

// removeDirectory relies on rmdir(2) to refuse links, files, mount points and
// directories with contents.
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
