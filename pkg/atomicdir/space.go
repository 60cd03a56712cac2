//go:build linux

package atomicdir

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

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
