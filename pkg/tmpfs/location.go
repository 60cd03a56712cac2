package tmpfs

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// location is a path seen from a directory, or without a path an open file.
type location struct {
	fd   int
	path string
}

// node is what statx(2) returns for a location.
type node struct {
	dir bool
	// mounted says that the location is the root of the mount with the number mount. The kernel
	// never reuses a unique number; the others are those of mountinfo.
	mounted bool
	unique  bool
	mount   uint64
}

func (l location) node() (node, error) {
	return l.statx(unix.STATX_MNT_ID | unix.STATX_MNT_ID_UNIQUE)
}

// listedNode asks for the number that mountinfo uses.
func (l location) listedNode() (node, error) { return l.statx(unix.STATX_MNT_ID) }

func (l location) statx(mask int) (node, error) {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if l.path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var st unix.Statx_t
	if err := unix.Statx(l.fd, l.path, flags, unix.STATX_TYPE|mask, &st); err != nil {
		return node{}, err
	}
	n := node{
		dir:     st.Mode&unix.S_IFMT == unix.S_IFDIR,
		mounted: st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
		unique:  st.Mask&unix.STATX_MNT_ID_UNIQUE != 0,
		mount:   st.Mnt_id,
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 || st.Mask&(unix.STATX_MNT_ID|unix.STATX_MNT_ID_UNIQUE) == 0 {
		return node{}, fmt.Errorf("statx(2) tells nothing of mounts: %w", errOldKernel)
	}
	return n, nil
}
