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
// A file is opened through ..data, so the one rename that replaces ..data replaces every file. A
// reader that needs several files of one payload opens the directory ..data once and reads relative
// to that descriptor. That payload stays whole until the second Write from then, because the
// package keeps a replaced payload for its last readers until the next Write.
//
// The link of an added file appears after the swap, because it would dangle before. The link of a
// removed file goes after the swap, because its file is part of the payload until then. Write does
// not touch the links of all other files.
//
// # Safety
//
// All work is relative to the descriptor of the directory and one name at a time, or through
// openat2 beneath a payload directory, and never follows a symlink: nothing that others create in
// the volume can make this package read, write or remove anything outside of it. The names that
// belong to this package are ..data, ..data_tmp, ..links_tmp and those shaped like a payload
// directory; links that lead to ..data/ belong to it too. It never changes any other entry.
//
// The package needs Linux 5.6 or later, for openat2.
package atomicdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrForeign says that the volume needs a name that another entry has, which this package did not
// make and will not remove.
var ErrForeign = errors.New("taken by an entry that is not part of the volume")

// Dir is an open volume directory. Its methods are safe for concurrent use. Two Dirs, or two
// processes, must not write to the same directory at the same time. There is no file lock against
// it because a pod that can read its volume could hold that lock forever.
type Dir struct {
	path string

	mu  sync.Mutex
	fd  int // -1 once closed
	sys calls
}

// Open takes a directory that the caller has opened and checked: its path may lead elsewhere by now.
// The caller still closes the file.
func Open(f *os.File) (*Dir, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening volume directory %q: %w", f.Name(), err)
	}
	return &Dir{path: f.Name(), fd: fd}, nil
}

// Close closes the directory and does not change the volume.
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

// Complete reports whether the directory holds a whole payload: ..data leads to a payload directory
// inside. A payload becomes the volume's at the swap, so after a crash between the swap and the
// last link the volume is complete. Repair or the next Write adds the missing links.
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
