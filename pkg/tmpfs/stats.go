package tmpfs

import (
	"os"

	"golang.org/x/sys/unix"
)

// Stats says how full a volume is.
type Stats struct {
	Bytes, Inodes Usage
}

// Usage counts bytes or inodes; Total is Used plus Available.
type Usage struct {
	Total, Used, Available int64
}

// Stats measures the volume mounted at target. It returns ErrNotMounted without a mount, whose
// figures would be those of the node's disk, and ErrForeign for another mount.
func (m *Mounter) Stats(target string) (Stats, error) {
	d, _, err := m.openMounted(target, isOurs)
	if err != nil {
		return Stats{}, err
	}
	defer d.close()
	return measure(d)
}

// Open opens the root of the whole tmpfs that is mounted at target, whether Mayfly or an earlier
// driver mounted it. It returns ErrNotMounted without one, and ErrForeign for another mount. It
// inspects the mount through the open file, so a write relative to that file goes to the tmpfs and
// never to the disk below it, even if the target is unmounted meanwhile.
func (m *Mounter) Open(target string) (*os.File, error) {
	d, err := m.openTmpfs(target)
	if err != nil {
		return nil, err
	}
	defer d.close()
	return d.reopen()
}

// openTmpfs opens a mounted tmpfs, whether Mayfly or an earlier driver mounted it.
func (m *Mounter) openTmpfs(target string) (directory, error) {
	d, _, err := m.openMounted(target, func(i Info) bool { return i.FSType == fsType && i.Root == "/" })
	return d, err
}

func isOurs(i Info) bool { return i.Ours }

// openMounted opens the root of the mount at target if allowed returns true.
func (m *Mounter) openMounted(target string, allowed func(Info) bool) (directory, Info, error) {
	path, err := cleanTarget(target)
	if err != nil {
		return directory{}, Info{}, err
	}
	d, err := openDirectory(path)
	if err != nil {
		return directory{}, Info{}, err
	}
	info, err := m.inspect(location{fd: d.fd})
	switch {
	case err != nil:
		err = failLook("inspecting target", path, err)
	case !info.Mounted:
		err = fail("using volume", path, ErrNotMounted)
	case !allowed(info):
		err = &ConflictError{Target: path, Info: info, kind: ErrForeign}
	default:
		return d, info, nil
	}
	d.close()
	return directory{}, Info{}, err
}

func measure(d directory) (Stats, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(d.fd, &st); err != nil {
		return Stats{}, failLook("measuring volume", d.path, err)
	}
	// The widths of these fields differ between architectures.
	block := int64(st.Bsize)
	return Stats{
		Bytes:  usage(int64(st.Blocks)*block, int64(st.Bavail)*block),
		Inodes: usage(int64(st.Files), int64(st.Ffree)),
	}, nil
}

func usage(total, available int64) Usage {
	return Usage{Total: total, Used: total - available, Available: available}
}
