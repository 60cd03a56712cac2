package tmpfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// location is a path seen from a directory, or without a path an open file.
type location struct {
	fd   int
	path string
}

// node is what the kernel says of a location.
type node struct {
	dir bool
	// mounted tells that the location is the root of a mount with the number
	// mount: one that is never used again if unique, else that of mountinfo.
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
		return l.olderNode(n.dir)
	}
	return n, nil
}

// olderNode serves Linux before 5.8: a directory is the root of a mount if its
// parent is on another one. Other files are not looked into.
func (l location) olderNode(dir bool) (node, error) {
	if !dir {
		return node{}, nil
	}
	own, err := mountNumber(l.fd, l.path, unix.O_NOFOLLOW)
	if err != nil {
		return node{}, err
	}
	above := ".."
	if l.path != "" {
		above = filepath.Dir(l.path)
	}
	parent, err := mountNumber(l.fd, above, 0)
	if err != nil {
		return node{}, err
	}
	// Nothing is above "/", which is always a mount.
	return node{dir: true, mounted: own != parent || l.path == "/", mount: own}, nil
}

// mountNumber reads the number of the mount that a file is on from
// /proc/self/fdinfo.
func mountNumber(dirfd int, path string, flags int) (uint64, error) {
	fd := dirfd
	if path != "" {
		opened, err := unix.Openat(dirfd, path, unix.O_PATH|unix.O_CLOEXEC|flags, 0)
		if err != nil {
			return 0, err
		}
		defer func() { _ = unix.Close(opened) }()
		fd = opened
	}
	name := fmt.Sprintf("/proc/self/fdinfo/%d", fd)
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strconv.ParseUint(strings.TrimSpace(value), 10, 64)
		}
	}
	return 0, fmt.Errorf("reading %s: %w", name, errors.New("no mnt_id in it"))
}
