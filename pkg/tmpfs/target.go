package tmpfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// cleanTarget accepts absolute paths without "..", whose meaning would depend on symbolic links. It
// drops a trailing slash, which would make the kernel follow a symbolic link in the last element in
// spite of O_NOFOLLOW. The kernel follows links before the last element: /var/lib/kubelet may be
// one.
func cleanTarget(target string) (string, error) {
	problem := ""
	switch {
	case target == "":
		problem = "it is empty"
	case !filepath.IsAbs(target):
		problem = "it is not absolute"
	case strings.ContainsRune(target, 0):
		problem = "it contains a NUL byte"
	case slices.Contains(strings.Split(target, "/"), ".."):
		problem = `it contains ".."`
	default:
		return filepath.Clean(target), nil
	}
	return "", fmt.Errorf("%w: %q: %s", ErrTarget, target, problem)
}

// directory is an open target. Calls use the descriptor and not the path, so another process
// cannot replace the directory in between.
type directory struct {
	fd   int
	path string
}

// openDirectory opens a target that must be a real directory. O_PATH needs no permission on the
// directory itself and triggers no automounter or dead server.
func openDirectory(path string) (directory, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Open(path, flags, 0)
	if err == nil {
		return directory{fd, path}, nil
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		err = notDirectory(path, err)
	}
	return directory{}, failLook("opening target", path, err)
}

func notDirectory(path string, err error) error {
	var st unix.Stat_t
	if unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return fmt.Errorf("%w but a symbolic link: %w", ErrNotDirectory, err)
	}
	return fmt.Errorf("%w: %w", ErrNotDirectory, err)
}

// reopen opens the same directory for reading.
func (d directory) reopen() (*os.File, error) {
	fd, err := unix.Openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, failLook("opening target", d.path, err)
	}
	return os.NewFile(uintptr(fd), d.path), nil
}

func (d directory) close() { _ = unix.Close(d.fd) }
