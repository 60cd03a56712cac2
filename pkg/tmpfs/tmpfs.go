// Package tmpfs mounts, inspects, measures and unmounts the private in-memory
// file system that holds one volume's secrets.
//
// It uses system calls only and runs no mount or umount binary, so the driver's image can hold the
// driver alone. It uses the mount API of Linux 5.2 (fsopen, fsconfig, fsmount, move_mount) in place
// of mount(2), for three reasons: each option value is passed whole, so a comma in an SELinux
// context needs no quoting; the kernel says in words what it refused; and the mount is attached to
// an open directory, so replacing the target with a symbolic link at the last moment has no effect.
// The package needs Linux 5.8 or later, the first whose statx(2) reports the root of a mount.
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
	// direct says that statmount(2) answers every question about a mount.
	direct bool
	// noSwap says that mounts use noswap, noSwapReason why they do not.
	noSwap       bool
	noSwapReason string
	// attaching makes "nothing is mounted here" and "mount here" one step, so that two concurrent
	// publishes cannot stack their mounts. The kernel takes a lock of its own for attaching, so
	// this one costs no speed.
	attaching sync.Mutex
	// detaching bounds the unmounts at a time. The kernel lets a thread wait until nobody
	// reads the list of mounts any more, and Go keeps every thread that it has started: a node that
	// loses 50 pods at once would have 50 more.
	detaching turns
	list      mountList
}

const detachments = 4

var errOldKernel = errors.New("this kernel, or the sandbox around it, is no Linux 5.8 or later")

// New probes the kernel's features, without mounting anything, and fails if this process may not
// mount.
func New() (*Mounter, error) {
	c, err := openContext()
	if errors.Is(err, unix.ENOSYS) {
		return nil, fmt.Errorf("fsopen(2): %w: %w", errOldKernel, err)
	}
	if err != nil {
		return nil, fmt.Errorf("probing the kernel's %s: %w%s", fsType, err, mountHint(err))
	}
	defer c.close()
	m := &Mounter{direct: hasStatmount(), noSwap: true, detaching: make(turns, detachments)}
	if err := c.set(parameter{key: "noswap"}); err != nil {
		m.noSwap, m.noSwapReason = false, err.Error()
	}
	return m, nil
}

// NoSwap reports whether volumes are kept out of swap, and if not, the kernel's reason: Linux
// before 6.3 cannot, and a user namespace may not ask.
func (m *Mounter) NoSwap() (enabled bool, reason string) {
	return m.noSwap, m.noSwapReason
}
