package tmpfs

import (
	"os"

	"golang.org/x/sys/unix"
)

// Stats is how full a volume is.
type Stats struct {
	Bytes, Inodes Usage
}

// Usage counts bytes or inodes; Total is Used plus Available.
type Usage struct {
	Total, Used, Available int64
}

// Stats measures the volume mounted at target: ErrNotMounted without one, for
// the figures would be those of the node's disk, and ErrForeign with another.
func (m *Mounter) Stats(target string) (Stats, error) {
	d, _, err := m.openVolume(target)
	if err != nil {
		return Stats{}, err
	}
	defer d.close()
	return measure(d)
}

// Open opens the root of the whole tmpfs that is mounted at target, be it ours or
// that of the driver before us: ErrNotMounted without one, and ErrForeign with
// another mount. The mount is looked at through the open file. So what is
// written relative to that comes to lie in the tmpfs and never on the disk
// below it, whoever unmounts the target meanwhile.
func (m *Mounter) Open(target string) (*os.File, error) {
	d, err := m.openTmpfs(target)
	if err != nil {
		return nil, err
	}
	defer d.close()
	return d.reopen()
}

// openTmpfs opens a mounted tmpfs, be it ours or that of the driver before us.
func (m *Mounter) openTmpfs(target string) (directory, error) {
	d, _, err := m.openMounted(target, func(i Info) bool { return i.FSType == fsType && i.Root == "/" })
	return d, err
}

// openVolume opens the root of this driver's mount at target.
func (m *Mounter) openVolume(target string) (directory, Info, error) {
	return m.openMounted(target, func(i Info) bool { return i.Ours })
}

// openMounted opens the root of the mount at target if allowed agrees.
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
