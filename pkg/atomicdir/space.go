//go:build linux

package atomicdir

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrNoSpace is matched by the error of a Write that ran out of bytes, inodes
// or quota. The volume still serves the payload it had.
var ErrNoSpace = errors.New("no space in the volume")

// NoSpaceError tells what a payload needs beside the one that it would replace.
// It matches ErrNoSpace and the kernel's ENOSPC or EDQUOT.
type NoSpaceError struct {
	Path string // of the volume
	// Bytes are those of the files, in whole blocks of the file system, as
	// it counts them; directories and long links may come on top.
	NeedBytes, FreeBytes uint64
	// FreeInodes means nothing unless LimitedInodes.
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

// explainSpace adds the numbers to an error for lack of space, and leaves every
// other error alone. It is called once the unfinished payload is gone, so that
// free means what the payload could have had.
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
