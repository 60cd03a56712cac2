package volume

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// storeDir is the open directory of the records. All work is relative to it: an
// unmount of the state must not have the next record written to the disk below.
type storeDir struct{ file *os.File }

func (d storeDir) fd() int { return int(d.file.Fd()) }

// path is where a person finds the file.
func (d storeDir) path(name string) string { return filepath.Join(d.file.Name(), name) }

func (d storeDir) fail(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: d.path(name), Err: err}
}

// write leaves out fsync: the directory is a tmpfs, and is meant to be
// gone after a reboot, as the volumes are. An os.File would first be offered
// to the runtime's poller, which takes no regular files: five system calls
// more than the work itself, in the way of every publish.
func (d storeDir) write(name string, parts [][]byte) error {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(d.fd(), name, flags, 0o600)
	if err != nil {
		return d.fail("open", name, err)
	}
	for err == nil && len(parts) > 0 {
		var n int
		if n, err = unix.Writev(fd, parts); err == unix.EINTR {
			n, err = 0, nil
		}
		parts = after(parts, max(n, 0))
	}
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return d.fail("write", name, err)
	}
	return nil
}

// after is what is left of the parts once n bytes are written.
func after(parts [][]byte, n int) [][]byte {
	for len(parts) > 0 && n >= len(parts[0]) {
		n -= len(parts[0])
		parts = parts[1:]
	}
	if n > 0 {
		parts[0] = parts[0][n:]
	}
	return parts
}

func (d storeDir) read(name string) ([]byte, error) {
	fd, err := unix.Openat(d.fd(), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	f := os.NewFile(uintptr(fd), d.path(name))
	defer func() { _ = f.Close() }()
	return io.ReadAll(f)
}

func (d storeDir) rename(from, to string) error {
	if err := unix.Renameat(d.fd(), from, d.fd(), to); err != nil {
		return &os.LinkError{Op: "rename", Old: d.path(from), New: d.path(to), Err: err}
	}
	return nil
}

func (d storeDir) remove(name string) error {
	if err := unix.Unlinkat(d.fd(), name, 0); err != nil {
		return d.fail("remove", name, err)
	}
	return nil
}

// names lists the directory from its start.
func (d storeDir) names() ([]string, error) {
	fd, err := unix.Openat(d.fd(), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, d.fail("open", ".", err)
	}
	f := os.NewFile(uintptr(fd), d.file.Name())
	defer func() { _ = f.Close() }()
	return f.Readdirnames(-1)
}
