package tmpfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Resize sets new limits for the volume mounted at target, in place, without any effect on pods.
// The kernel refuses limits below what is in use: ErrTooSmall, and nothing changes. The mount's
// other options stay.
func (m *Mounter) Resize(target string, size, inodes int64) error {
	if err := join(checkLimit("Size", size), checkLimit("Inodes", inodes)); err != nil {
		return fail("resizing volume", target, err)
	}
	d, info, err := m.openVolume(target)
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
	c, err := pickContext(d)
	if err != nil {
		return err
	}
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
