package tmpfs

import (
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
