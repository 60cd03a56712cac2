package tmpfs

import (
	"encoding/binary"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The interface of statmount(2), from the kernel's uapi (linux/mount.h).
const (
	statmountBasic  = 1 << 0 // STATMOUNT_SB_BASIC
	statmountMount  = 1 << 1 // STATMOUNT_MNT_BASIC
	statmountRoot   = 1 << 3 // STATMOUNT_MNT_ROOT
	statmountType   = 1 << 5 // STATMOUNT_FS_TYPE
	statmountOpts   = 1 << 7 // STATMOUNT_MNT_OPTS, Linux 6.11
	statmountSource = 1 << 9 // STATMOUNT_SB_SOURCE, Linux 6.13

	statmountWanted = statmountBasic | statmountMount | statmountRoot | statmountType | statmountSource

	// Offsets in struct statmount. Strings are offsets into what follows it.
	offsetOpts    = 4
	offsetMask    = 8
	offsetSBFlags = 32
	offsetType    = 36
	offsetAttr    = 64
	offsetRoot    = 104
	offsetSource  = 124
	statmountSize = 512
)

// statmountTable looks up one mount by its unique number, in a time that does not grow with the
// number of mounts.
type statmountTable struct{}

func (statmountTable) lookup(id uint64) (record, error) {
	// Large enough for most mounts, and small enough for the stack.
	var small [statmountSize + 1024]byte
	buffer := small[:]
	err := statmount(id, statmountWanted|statmountOpts, buffer)
	if err == unix.EOVERFLOW {
		// Large enough for two paths and the options; for a mount that needs still more, inspect
		// reads mountinfo.
		buffer = make([]byte, statmountSize+3*4096)
		err = statmount(id, statmountWanted|statmountOpts, buffer)
	}
	if err != nil {
		return record{}, err
	}
	return parseStatmount(buffer)
}

// hasStatmount tries statmount(2) on a mount that is always there.
func hasStatmount() bool {
	n, err := location{fd: unix.AT_FDCWD, path: "/"}.node()
	if err != nil || !n.unique {
		return false
	}
	_, err = statmountTable{}.lookup(n.mount)
	return err == nil
}

func statmount(id uint64, mask uint64, buffer []byte) error {
	request := struct { // struct mnt_id_req in its first version
		size, spare uint32
		id, param   uint64
	}{size: 24, id: id, param: mask}
	_, _, errno := unix.Syscall6(unix.SYS_STATMOUNT, uintptr(unsafe.Pointer(&request)),
		uintptr(unsafe.Pointer(&buffer[0])), uintptr(len(buffer)), 0, 0, 0)
	runtime.KeepAlive(&request)
	if errno != 0 {
		return errno
	}
	return nil
}

// parseStatmount fails if the answer is not complete: before 6.13 the kernel does not report the
// source.
func parseStatmount(b []byte) (record, error) {
	order := binary.NativeEndian
	if len(b) < statmountSize {
		return record{}, unix.EOVERFLOW
	}
	mask := order.Uint64(b[offsetMask:])
	if mask&statmountWanted != statmountWanted {
		return record{}, unix.EOPNOTSUPP
	}
	text := func(offset int) string {
		start := uint64(order.Uint32(b[offset:])) + statmountSize
		if start >= uint64(len(b)) {
			return ""
		}
		return unix.ByteSliceToString(b[start:])
	}
	r := record{
		root:   text(offsetRoot),
		fsType: text(offsetType),
		source: text(offsetSource),
	}
	r.mountOptions = attributeNames(order.Uint64(b[offsetAttr:]))
	if order.Uint32(b[offsetSBFlags:])&unix.MS_RDONLY != 0 {
		r.fsOpts = append(r.fsOpts, "ro")
	}
	if mask&statmountOpts != 0 {
		r.fsOpts = append(r.fsOpts, splitOptions(text(offsetOpts))...)
	}
	return r, nil
}

// attributeNames formats a mount's attributes as mountinfo does.
func attributeNames(attributes uint64) []string {
	names := make([]string, 0, 12)
	if attributes&unix.MOUNT_ATTR_RDONLY != 0 {
		names = append(names, "ro")
	} else {
		names = append(names, "rw")
	}
	for _, a := range [...]struct {
		bit  uint64
		name string
	}{
		{unix.MOUNT_ATTR_NOSUID, "nosuid"},
		{unix.MOUNT_ATTR_NODEV, "nodev"},
		{unix.MOUNT_ATTR_NOEXEC, "noexec"},
		{unix.MOUNT_ATTR_NOATIME, "noatime"},
		{unix.MOUNT_ATTR_NODIRATIME, "nodiratime"},
	} {
		if attributes&a.bit != 0 {
			names = append(names, a.name)
		}
	}
	if attributes&unix.MOUNT_ATTR__ATIME == unix.MOUNT_ATTR_RELATIME {
		names = append(names, "relatime")
	}
	if attributes&unix.MOUNT_ATTR_NOSYMFOLLOW != 0 {
		names = append(names, "nosymfollow")
	}
	if attributes&unix.MOUNT_ATTR_IDMAP != 0 {
		names = append(names, "idmapped")
	}
	return names
}
