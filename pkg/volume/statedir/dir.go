package statedir

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// directory is the open state directory. All files are opened relative to it: after
// an unmount of the state, the next record must not go to the disk below.
type directory struct{ file *os.File }

func (d directory) fd() int { return int(d.file.Fd()) }

// path is the path of a file, for messages.
func (d directory) path(name string) string { return filepath.Join(d.file.Name(), name) }

func (d directory) fail(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: d.path(name), Err: err}
}

// write does not call fsync: the directory is a tmpfs, which ends with a reboot, as
// the volumes do. It does not use os.File, which would cost five more system calls
// for each publish: Go first tries to add the file to the runtime's poller, which
// takes no regular files.
func (d directory) write(name string, parts [][]byte) error {
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

// after returns the parts without their first n bytes.
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

// replace writes a new file and renames it.
func (d directory) replace(name string, parts [][]byte) error {
	partial := name + partialSuffix
	err := d.write(partial, parts)
	if err == nil {
		err = d.rename(partial, name)
	}
	if err != nil {
		_ = d.remove(partial)
	}
	return err
}

// read reads a file of at most two times maxRecord.
func (d directory) read(name string) ([]byte, error) {
	fd, err := unix.Openat(d.fd(), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, d.fail("open", name, err)
	}
	f := os.NewFile(uintptr(fd), d.path(name))
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, 2*maxRecord+1))
	if err == nil && len(data) > 2*maxRecord {
		err = errTooLong
	}
	return data, err
}

// stat returns the size of a file in bytes, and when it was written.
func (d directory) stat(name string) (size int64, modified time.Time, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, modified, d.fail("stat", name, err)
	}
	return st.Size, time.Unix(st.Mtim.Unix()), nil
}

func (d directory) rename(from, to string) error {
	if err := unix.Renameat(d.fd(), from, d.fd(), to); err != nil {
		return &os.LinkError{Op: "rename", Old: d.path(from), New: d.path(to), Err: err}
	}
	return nil
}

func (d directory) remove(name string) error {
	if err := unix.Unlinkat(d.fd(), name, 0); err != nil {
		return d.fail("remove", name, err)
	}
	return nil
}

// names lists the directory.
func (d directory) names() ([]string, error) {
	fd, err := unix.Openat(d.fd(), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, d.fail("open", ".", err)
	}
	f := os.NewFile(uintptr(fd), d.file.Name())
	defer func() { _ = f.Close() }()
	return f.Readdirnames(-1)
}
