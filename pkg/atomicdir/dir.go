//go:build linux

// Package atomicdir replaces the files of a volume all at once, in the layout
// of kubelet's own volumes, so that a reader sees one payload or the next and a
// crash at any instruction leaves a volume that still serves one of them.
//
// A volume looks like this:
//
//	..2026_01_02_15_04_05.123456789/   the payload directory
//	    password
//	    tls/key.pem
//	..data -> ..2026_01_02_15_04_05.123456789
//	password -> ..data/password
//	tls -> ..data/tls
//
// # Readers
//
// A file is opened through ..data, so the one rename that replaces ..data
// replaces every file. Who must have several files from one payload opens the
// directory ..data once and reads relative to that descriptor. That payload
// stays whole until the second Write from then: a replaced payload is kept for
// its last readers until the next Write or Sweep.
//
// The link of an added file appears after the swap, never before it, when it
// would dangle. The link of a removed file goes after the swap, never before
// it, when its file is still part of the payload. The links of all other files
// are not touched.
//
// # Safety
//
// All work is relative to the descriptor of the directory and one name at a
// time, or through openat2 beneath a payload directory, and never follows a
// symlink: what others plant in the volume cannot make this package read,
// write or remove anything outside of it. The names that belong to this package
// are ..data, ..data_tmp, ..links_tmp and those shaped like a payload
// directory; links that lead to ..data/ are its own too. Everything else is
// somebody else's and stays as it is.
//
// Linux 5.6 or later is needed, for openat2.
package atomicdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrForeign says that a name which the volume needs is taken by an entry that
// this package did not make and will not remove.
var ErrForeign = errors.New("taken by an entry that is not part of the volume")

// Dir is an open volume directory. Its methods are safe for concurrent use. Two
// Dirs, or two processes, must not write to the same directory at the same
// time; there is no file lock against it because a pod that can read its volume
// could hold that lock forever.
type Dir struct {
	path string

	mu sync.Mutex
	fd int // -1 once closed

	// hook is called before each system call that changes the directory.
	// Tests make it fail or panic there.
	hook func(op, name string) error
}

// Open opens the directory at path. The last element of path must not be a
// symlink.
func Open(path string) (*Dir, error) {
	// A trailing slash would make the kernel follow a symlink in spite of
	// O_NOFOLLOW.
	path = filepath.Clean(path)
	fd, err := openDir(unix.AT_FDCWD, path)
	if err != nil {
		return nil, fmt.Errorf("opening volume directory %q: %w", path, explainOpen(path, err))
	}
	return &Dir{path: path, fd: fd}, nil
}

// OpenFile is Open for a directory that the caller has open already, and has
// looked at: its path may lead elsewhere by now. The file is still the caller's
// to close.
func OpenFile(f *os.File) (*Dir, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening volume directory %q: %w", f.Name(), err)
	}
	return &Dir{path: f.Name(), fd: fd}, nil
}

// explainOpen tells apart what the kernel reports alike as ENOTDIR.
func explainOpen(path string, err error) error {
	var st unix.Stat_t
	if err != unix.ENOTDIR && err != unix.ELOOP {
		return err
	}
	if unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return fmt.Errorf("it is a symlink: %w", err)
	}
	return err
}

// Close releases the directory. The volume stays as it is.
func (d *Dir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd < 0 {
		return nil
	}
	err := unix.Close(d.fd)
	d.fd = -1
	return err
}

// Complete tells whether the directory holds a whole payload: ..data leads to a
// payload directory inside. The swap of a Write is what makes a payload the
// volume's, so a crash right after it, before all links are in place, leaves a
// complete volume. Repair or the next Write places the rest.
func (d *Dir) Complete() (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd < 0 {
		return false, d.closedError()
	}
	live, err := d.openLive()
	if err != nil || live.name == "" {
		return false, err
	}
	closeFD(live.fd)
	return true, nil
}

func (d *Dir) closedError() error {
	return fmt.Errorf("using volume directory %q: %w", d.path, fs.ErrClosed)
}
