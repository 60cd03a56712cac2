package endpoint

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// open opens a path of d. Beneath a listed directory the kernel follows links, since Kubernetes
// mounts the files of a ConfigMap or Secret as links to ..data, but no link that leads out of the
// directory, nor one of /proc. So a link leads to no file that a class could not name itself.
func (d *dir) open(path string, flags int) (int, error) {
	flags |= unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	if d.path == "" {
		return unix.Open(path, flags, 0)
	}
	root, err := unix.Open(d.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(root) }()
	rel, err := filepath.Rel(d.path, filepath.Clean(path))
	if err != nil {
		return -1, errOutside
	}
	how := &unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS} //nolint:gosec // never negative
	fd, err := unix.Openat2(root, rel, how)
	for range 8 { // the kernel fails with EAGAIN after a concurrent rename
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			break
		}
		fd, err = unix.Openat2(root, rel, how)
	}
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ELOOP) {
		return -1, errOutside
	}
	return fd, err
}

// file reads a regular file of at most most bytes. It uses the system call: package os would wait
// for more data from a file that returns EAGAIN, such as /proc/kmsg.
func (d *dir) file(path string, most int) ([]byte, error) {
	fd, err := d.open(path, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	tooLarge := fmt.Errorf("it is larger than %d bytes", most)
	switch err := unix.Fstat(fd, &st); {
	case err != nil:
		return nil, err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, errors.New("it is not a regular file")
	case st.Size > int64(most):
		return nil, tooLarge
	}
	data := make([]byte, 0, st.Size+512)
	for {
		n, err := unix.Read(fd, data[len(data):cap(data)])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil, errors.New("it has no end")
		case err != nil:
			return nil, err
		case n <= 0:
			return data, nil
		}
		if data = data[:len(data)+n]; len(data) > most {
			return nil, tooLarge
		}
		data = slices.Grow(data, 512)
	}
}

// files reads a directory without the hidden entries of a mounted ConfigMap. It leaves out
// everything but readable files.
func (d *dir) files(path string) ([][]byte, error) {
	fd, err := d.open(path, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	names, err := f.Readdirnames(maxEntries + 1)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, errors.New("its files cannot be listed")
	case len(names) > maxEntries:
		return nil, fmt.Errorf("it holds more than %d files", maxEntries)
	}
	slices.Sort(names)
	var all [][]byte
	left := maxDir
	for _, name := range names {
		if name[0] == '.' {
			continue
		}
		data, err := d.file(filepath.Join(path, name), maxFile)
		if err != nil {
			continue
		}
		if left -= len(data); left < 0 {
			return nil, fmt.Errorf("its files are larger than %d bytes", maxDir)
		}
		all = append(all, data)
	}
	return all, nil
}
