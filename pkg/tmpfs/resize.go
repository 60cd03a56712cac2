package tmpfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Resize gives the volume mounted at target new limits, in place: pods see
// nothing of it. The kernel refuses limits below what is in use, which is
// ErrTooSmall and changes nothing; the mount's other options stay.
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

// resizeParameters repeats noswap where the mount has it: the first kernels
// that knew the option read its absence as a wish for swap, and refused.
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
