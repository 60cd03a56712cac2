// Package tmpfs mounts, inspects, measures and unmounts the private in-memory
// file system that holds one volume's secrets.
//
// Everything is a system call: no mount or umount binary is run, so the
// driver's image can be empty but for the driver. It is the mount API of Linux 5.2
// (fsopen, fsconfig, fsmount, move_mount) in place of mount(2), for three
// reasons: option values travel whole, so a comma in an SELinux context needs
// no quoting; the kernel says in words what it did not like; and the mount is
// attached to an open directory, so that a target swapped for a symbolic link
// at the last moment leads nowhere. Linux 5.8 or later is needed: it is the first
// whose statx(2) tells the root of a mount.
package tmpfs

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Source is the device name that marks this driver's mounts in
// /proc/self/mountinfo, findmnt and the like.
const Source = "mayfly"

const fsType = "tmpfs"

// Mounter mounts and unmounts volumes. It is safe for concurrent use and
// needs no closing. Make one with New.
type Mounter struct {
	// direct tells that statmount(2) answers every question about a mount.
	direct bool
	// noSwap tells that noswap is used, noSwapReason why it is not.
	noSwap       bool
	noSwapReason string
	// attaching makes "nothing is mounted here" and "mount here" one step, so
	// that two publishes at once cannot stack their mounts. The kernel takes a
	// lock of its own for attaching, so nothing is slowed by it.
	attaching sync.Mutex
	list      mountList
}

var errOldKernel = errors.New("this kernel, or the sandbox around it, is no Linux 5.8 or later")

// New finds out what the kernel offers, without mounting anything, and fails
// where this process may not mount at all.
func New() (*Mounter, error) {
	c, err := openContext()
	if errors.Is(err, unix.ENOSYS) {
		return nil, fmt.Errorf("fsopen(2): %w: %w", errOldKernel, err)
	}
	if err != nil {
		return nil, fmt.Errorf("probing the kernel's %s: %w%s", fsType, err, mountHint(err))
	}
	defer c.close()
	m := &Mounter{direct: hasStatmount(), noSwap: true}
	if err := c.set(parameter{key: "noswap"}); err != nil {
		m.noSwap, m.noSwapReason = false, err.Error()
	}
	return m, nil
}

// NoSwap tells whether volumes are kept out of swap, and if not, the kernel's
// reason: Linux before 6.3 does not know how, and a user namespace may not ask.
func (m *Mounter) NoSwap() (enabled bool, reason string) {
	return m.noSwap, m.noSwapReason
}
