package staging

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const (
	// inside keeps every look-up on the stage's own file system: it follows no link and enters no
	// mount.
	inside = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
	// maxDepth bounds how deep directories may be nested.
	maxDepth = 32
	// batch is how many names are read at once.
	batch = 256
)

// reader reads a directory to which another process may still be writing. It learns everything
// about a file from the open file.
type reader struct {
	root  *os.File
	most  int   // files and directories that it may still read
	bytes int64 // of contents that it may still read
	files []provider.File
}

// read returns the regular files below root, sorted by path. Any other entry is an error: it is no
// secret, and may be an attack.
func read(root *os.File, most int, bytes int64) ([]provider.File, error) {
	r := &reader{root: root, most: most, bytes: bytes}
	if err := r.directory(".", 0); err != nil {
		return nil, err
	}
	slices.SortFunc(r.files, func(a, b provider.File) int { return cmp.Compare(a.Path, b.Path) })
	return r.files, nil
}

func (r *reader) directory(name string, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%q: directories lie more than %d deep", name, maxDepth)
	}
	d, err := r.open(name, unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	for {
		names, err := d.Readdirnames(batch)
		for _, n := range names {
			if err := r.entry(d, path.Join(name, n), depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("listing %q: %w", name, err)
		}
	}
}

func (r *reader) entry(dir *os.File, name string, depth int) error {
	if r.most--; r.most < 0 {
		return errors.New("there are too many files and directories")
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return r.directory(name, depth+1)
	case unix.S_IFREG:
		return r.file(name)
	}
	return irregular(name)
}

func irregular(name string) error { return fmt.Errorf("%q is no regular file", name) }

func (r *reader) file(name string) error {
	f, err := r.open(name, unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return irregular(name)
	case st.Nlink != 1:
		return fmt.Errorf("%q has %d links", name, st.Nlink)
	case st.Size > r.bytes:
		return fmt.Errorf("%q has more bytes than may still come, %d", name, r.bytes)
	}
	contents := make([]byte, st.Size)
	n, err := io.ReadFull(f, contents)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading %q: %w", name, err)
	}
	if more, _ := f.Read(make([]byte, 1)); int64(n) != st.Size || more != 0 {
		return fmt.Errorf("%q changes while it is read", name)
	}
	r.bytes -= st.Size
	r.files = append(r.files, provider.File{Path: name, Mode: fs.FileMode(st.Mode & 0o7777), Contents: secret.NewBytes(contents)})
	return nil
}

// open never blocks, as a plain open of a pipe would.
func (r *reader) open(name string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(r.root.Fd()), name, &unix.OpenHow{
		Flags: flags | unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC, Resolve: inside,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
