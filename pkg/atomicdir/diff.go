//go:build linux

package atomicdir

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// chunk bounds how much of a file a comparison reads at once, in bytes.
const chunk = 32 << 10

// entry is a file or directory of an existing payload.
type entry struct {
	path string
	mode uint32 // type and permissions
	ids  ids
	size int64
}

func (e entry) isDir() bool { return e.mode&unix.S_IFMT == unix.S_IFDIR }

func statEntry(fd int, path string) (entry, error) {
	_, name := split(path)
	var st unix.Stat_t
	err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return entry{path: path, mode: st.Mode, ids: ids{st.Uid, st.Gid}, size: st.Size}, err
}

// differs reports whether the live payload differs from the planned one.
func (d *Dir) differs(live payload, p *plan) (bool, error) {
	if live.name == "" {
		return true, nil // no payload differs from an empty one too
	}
	root, err := statEntry(d.fd, live.name)
	if err != nil {
		return false, fmt.Errorf("comparing payload %q in %q: %w", live.name, d.path, err)
	}
	c := cursor{top: live.fd}
	defer c.close()
	have, err := walk(&c, "", nil)
	if err != nil {
		return false, fmt.Errorf("comparing payload %q in %q: %w", live.name, d.path, err)
	}
	if len(have) != len(p.nodes) || !p.root().matches(root) {
		return true, nil
	}
	cmp := comparer{cursor: &c}
	defer cmp.clear()
	for i, n := range p.nodes { // both are in tree order
		e := have[i]
		if e.path != n.path || !n.matches(e) || !n.dir && !cmp.same(e, n.contents) {
			return true, nil
		}
	}
	return false, nil
}

// walk appends everything below dir in tree order.
func walk(c *cursor, dir string, out []entry) ([]entry, error) {
	fd, err := c.at(dir)
	if err != nil {
		return nil, err
	}
	names, err := readNames(fd)
	if err != nil {
		return nil, err
	}
	level := make([]entry, len(names))
	for i, name := range names {
		if level[i], err = statEntry(fd, join(dir, name)); err != nil {
			return nil, err
		}
	}
	if out == nil {
		out = make([]entry, 0, len(level))
	}
	for _, e := range level {
		out = append(out, e)
		if !e.isDir() {
			continue
		}
		if out, err = walk(c, e.path, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// comparer reads files of the live payload in chunks.
type comparer struct {
	cursor *cursor
	buf    []byte
}

// same reports whether the file holds exactly these bytes. A file that cannot be read counts as
// different, and is written again.
func (c *comparer) same(e entry, contents []byte) bool {
	if e.size != int64(len(contents)) {
		return false
	}
	dir, name := split(e.path)
	parent, err := c.cursor.at(dir)
	if err != nil {
		return false
	}
	fd, err := retry(func() (int, error) { return unix.Openat(parent, name, openReadFlags, 0) })
	if err != nil {
		return false
	}
	defer closeFD(fd)
	if need := min(chunk, len(contents)); len(c.buf) < need {
		c.clear()
		c.buf = make([]byte, need)
	}
	for len(contents) > 0 {
		n, err := retry(func() (int, error) { return unix.Read(fd, c.buf) })
		if err != nil || n <= 0 || n > len(contents) || !bytes.Equal(c.buf[:n], contents[:n]) {
			return false
		}
		contents = contents[n:]
	}
	return true
}

// clear wipes the buffer, so that no copy of a secret stays in memory until the garbage collector
// runs.
func (c *comparer) clear() { clear(c.buf) }
