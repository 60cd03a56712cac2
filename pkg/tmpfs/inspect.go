package tmpfs

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"
)

// Info describes a target.
type Info struct {
	// Exists says that the path exists.
	Exists bool
	// Mounted says that the target is a mount point. The fields below describe the topmost mount
	// and are zero without one.
	Mounted bool
	// Ours says that this driver made the mount: a whole tmpfs (not a bind mount of a directory in
	// one) whose source is Source.
	Ours bool
	// FSType and Source are as in mountinfo: "tmpfs", "ext4"; "/dev/vda1".
	FSType, Source string
	// Root is the directory of the file system that is mounted: "/" except for bind mounts.
	Root string
	// Options are those of the mount, followed by those of the file system.
	Options []string
	// ReadOnly says that either of the two is read-only.
	ReadOnly bool
}

// Has reports whether option ("noswap", "size=64k") is among i.Options.
func (i Info) Has(option string) bool { return slices.Contains(i.Options, option) }

// Inspect looks at target without following a symbolic link at its end. A target that does not
// exist is no error. For a dead or unreadable one it returns an error that wraps the operating
// system's.
//
// It takes microseconds however many mounts the node has, except on Linux before 6.13: there the
// first look after a change to any mount reads all of them.
func (m *Mounter) Inspect(target string) (Info, error) {
	path, err := cleanTarget(target)
	if err != nil {
		return Info{}, err
	}
	info, err := m.inspect(location{fd: unix.AT_FDCWD, path: path})
	if err != nil {
		return Info{}, failLook("inspecting target", path, err)
	}
	return info, nil
}

// errVanished says that the mount changed between two looks at it.
var errVanished = errors.New("the mount changes while it is looked at")

// inspect starts again when a mount comes or goes during the look. A few rounds are enough: each
// takes another mount or unmount at this very target.
func (m *Mounter) inspect(at location) (info Info, err error) {
	for range 5 {
		info, err = m.look(at)
		if !errors.Is(err, errVanished) {
			break
		}
	}
	return info, err
}

func (m *Mounter) look(at location) (Info, error) {
	n, err := at.listedNode()
	if m.direct {
		n, err = at.node()
	}
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, nil
	}
	if err != nil {
		return Info{}, err
	}
	info := Info{Exists: true}
	if !n.mounted {
		return info, nil
	}
	if n.unique {
		if err = info.fill(statmountTable{}, n.mount); err == nil {
			return info, nil
		}
		// statmount(2) fails for very long paths, and shows some processes not all mounts.
		if n, err = at.listedNode(); err != nil || !n.mounted {
			return Info{}, errVanished
		}
	}
	list, err := m.list.current()
	if err != nil {
		return Info{}, err
	}
	err = info.fill(list, n.mount)
	if errors.Is(err, errVanished) {
		m.list.forget()
	}
	return info, err
}

// record is one mount's entry in a table.
type record struct {
	root                 string
	fsType, source       string
	mountOptions, fsOpts []string
}

// mountTable finds mounts by number. Finding them by path would require undoing the escapes, bind
// mounts and symbolic links that a path can have.
type mountTable interface {
	lookup(id uint64) (record, error)
}

func (i *Info) fill(table mountTable, id uint64) error {
	top, err := table.lookup(id)
	if err != nil {
		return err
	}
	i.Mounted = true
	i.FSType, i.Source, i.Root = top.fsType, top.source, top.root
	i.Ours = top.fsType == fsType && top.source == Source && top.root == "/"
	i.ReadOnly = slices.Contains(top.mountOptions, "ro") || slices.Contains(top.fsOpts, "ro")
	i.Options = top.mountOptions
	for _, option := range top.fsOpts {
		if option != "rw" && option != "ro" {
			i.Options = append(i.Options, option)
		}
	}
	return nil
}

// location is a path seen from a directory, or without a path an open file.
type location struct {
	fd   int
	path string
}

// node is what statx(2) returns for a location.
type node struct {
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
	// STATX_TYPE has the kernel ask the file system, so that a dead one shows.
	if err := unix.Statx(l.fd, l.path, flags, unix.STATX_TYPE|mask, &st); err != nil {
		return node{}, err
	}
	n := node{
		mounted: st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
		unique:  st.Mask&unix.STATX_MNT_ID_UNIQUE != 0,
		mount:   st.Mnt_id,
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 || st.Mask&(unix.STATX_MNT_ID|unix.STATX_MNT_ID_UNIQUE) == 0 {
		return node{}, fmt.Errorf("statx(2) tells nothing of mounts: %w", errOldKernel)
	}
	return n, nil
}
