//go:build linux

package atomicdir

import (
	"cmp"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const dirMode = 0o755

// plan is a validated payload in the order in which Write writes and compares it: every directory
// before its entries.
type plan struct {
	nodes []node
	tops  []string // first elements of the paths, sorted
	ids   ids      // of the payload directory, and of what says no other
	now   time.Time
}

// ids are the owners that the kernel knows.
type ids struct{ uid, gid uint32 }

// of are the ids that a file gets.
func (i ids) of(o Owner) ids {
	if o.UID != nil {
		i.uid = *o.UID
	}
	if o.GID != nil {
		i.gid = *o.GID
	}
	return i
}

// node is a file or directory of the payload.
type node struct {
	path     string
	ids      ids
	mode     uint32
	dir      bool
	contents []byte
}

func newPlan(files []File, o Options) (*plan, error) {
	order, err := sortedIndexes(files)
	if err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &plan{
		nodes: make([]node, 0, len(files)),
		ids:   ids{uint32(os.Geteuid()), uint32(os.Getegid())},
		now:   o.Now(),
	}
	groupRead := uint32(0)
	if o.GID != nil {
		p.ids.gid, groupRead = *o.GID, 0o040
	}
	prev := ""
	for _, i := range order {
		f := &files[i]
		p.addDirs(prev, f.Path)
		prev = f.Path
		mode := uint32(cmp.Or(f.Mode, defaultMode))
		if f.Owner.IsZero() { // programs refuse a key file of theirs that others can read
			mode |= groupRead
		}
		p.add(node{path: f.Path, ids: p.ids.of(f.Owner), mode: mode, contents: f.Contents})
	}
	return p, nil
}

// addDirs adds the directories above path that are not above prev, the file before it in the order.
func (p *plan) addDirs(prev, path string) {
	shared := 0
	for i := 0; i < len(path) && i < len(prev) && path[i] == prev[i]; i++ {
		if path[i] == '/' {
			shared = i + 1
		}
	}
	for i := shared; i < len(path); i++ {
		if path[i] == '/' {
			p.add(node{path: path[:i], ids: p.ids, mode: dirMode, dir: true})
		}
	}
}

func (p *plan) add(n node) {
	p.nodes = append(p.nodes, n)
	if dir, _ := split(n.path); dir == "" {
		p.tops = append(p.tops, n.path)
	}
}

// root is the payload directory.
func (p *plan) root() node { return node{ids: p.ids, mode: dirMode, dir: true} }

// matches reports whether an existing entry has the type, mode and owners of the node.
func (n node) matches(e entry) bool {
	format := uint32(unix.S_IFREG)
	if n.dir {
		format = unix.S_IFDIR
	}
	return e.mode == format|n.mode && e.ids == n.ids
}
