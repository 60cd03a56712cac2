//go:build linux

package atomicdir

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// maxNames bounds the search for an unused payload name.
const maxNames = 100

// makePayload returns the name as soon as the directory exists, with or without
// an error.
func (d *Dir) makePayload(p *plan) (string, error) {
	name, err := d.makePayloadDir(p.now)
	if err != nil {
		return "", fmt.Errorf("creating payload directory in %q: %w", d.path, err)
	}
	top, err := openDir(d.fd, name)
	if err != nil {
		return name, fmt.Errorf("opening payload %q in %q: %w", name, d.path, err)
	}
	defer closeFD(top)
	w := payloadWriter{sys: &d.sys, cursor: cursor{top: top}}
	defer w.cursor.close()
	for _, n := range p.nodes {
		if err := w.add(n); err != nil {
			return name, fmt.Errorf("writing %s in %q: %w", quote(n.path), d.path, err)
		}
	}
	if err := d.sys.own(top, name, p.root()); err != nil {
		return name, fmt.Errorf("opening payload %q in %q to its readers: %w", name, d.path, err)
	}
	return name, nil
}

func (d *Dir) makePayloadDir(now time.Time) (string, error) {
	for attempt := range maxNames {
		name := payloadName(now, attempt)
		err := d.sys.mkdir(d.fd, name)
		if err == nil {
			return name, nil
		}
		if err != unix.EEXIST {
			return "", err
		}
	}
	return "", unix.EEXIST
}

// payloadWriter writes the files and directories of a new payload.
type payloadWriter struct {
	sys    *calls
	cursor cursor
}

func (w *payloadWriter) add(n node) error {
	dir, name := split(n.path)
	parent, err := w.cursor.at(dir)
	if err != nil {
		return err
	}
	if n.dir {
		return w.addDir(parent, name, n)
	}
	fd, err := w.sys.create(parent, name)
	if err != nil {
		return err
	}
	defer closeFD(fd)
	if err := w.sys.write(fd, name, n.contents); err != nil {
		return err
	}
	return w.sys.own(fd, name, n)
}

// addDir leaves the cursor in the new directory, because the next node most likely belongs there.
func (w *payloadWriter) addDir(parent int, name string, n node) error {
	if err := w.sys.mkdir(parent, name); err != nil {
		return err
	}
	fd, err := openDir(parent, name)
	if err != nil {
		return err
	}
	w.cursor.set(n.path, fd)
	return w.sys.own(fd, name, n)
}

// ErrNoSpace matches the error of a Write that ran out of bytes, inodes or quota. The volume still
// serves its old payload.
var ErrNoSpace = errors.New("no space in the volume")

// NoSpaceError says how much space a payload needs beside the payload that it replaces. It matches
// ErrNoSpace and the kernel's ENOSPC or EDQUOT.
type NoSpaceError struct {
	Path string // of the volume
	// NeedBytes counts the files in whole blocks of the file system, as the file system does;
	// directories and long links may add to it.
	NeedBytes, FreeBytes uint64
	// FreeInodes has no meaning unless LimitedInodes is true.
	NeedInodes, FreeInodes uint64
	LimitedInodes          bool
	Err                    error
}

func (e *NoSpaceError) Error() string {
	inodes := ""
	if e.LimitedInodes {
		inodes = fmt.Sprintf("; %d inodes needed, %d free", e.NeedInodes, e.FreeInodes)
	}
	return fmt.Sprintf("%v %q: %d bytes needed, %d free%s: %v", ErrNoSpace, e.Path, e.NeedBytes, e.FreeBytes, inodes, e.Err)
}

func (e *NoSpaceError) Unwrap() []error { return []error{ErrNoSpace, e.Err} }

// explainSpace adds the numbers to an error for lack of space, and returns every other error
// unchanged. Its caller removes the unfinished payload first, so that the free space is what the
// payload could have used.
func (d *Dir) explainSpace(err error, p *plan, links int) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	var st unix.Statfs_t
	if statErr := unix.Fstatfs(d.fd, &st); statErr != nil {
		return errors.Join(fmt.Errorf("%w: %w", ErrNoSpace, err), statErr)
	}
	block := uint64(max(st.Bsize, 1))
	// The payload directory, ..data_tmp, and ..links_tmp with its links.
	e := &NoSpaceError{Path: d.path, FreeBytes: st.Bavail * block, Err: err,
		NeedInodes: uint64(len(p.nodes)) + 2, FreeInodes: st.Ffree, LimitedInodes: st.Files > 0}
	if links > 0 {
		e.NeedInodes += uint64(links) + 1
	}
	for _, n := range p.nodes {
		e.NeedBytes += (uint64(len(n.contents)) + block - 1) / block * block
	}
	return e
}
