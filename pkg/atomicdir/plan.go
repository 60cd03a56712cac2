//go:build linux

package atomicdir

import (
	"fmt"
	"math"
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
	uid   uint32
	gid   uint32
	now   time.Time
}

// node is a file or directory of the payload.
type node struct {
	path     string
	mode     uint32
	dir      bool
	contents []byte
}

func newPlan(files []File, o Options) (*plan, error) {
	order, err := sortedIndexes(files)
	if err != nil {
		return nil, err
	}
	p := &plan{
		nodes: make([]node, 0, len(files)),
		uid:   uint32(os.Geteuid()),
		gid:   uint32(os.Getegid()),
		now:   o.now(),
	}
	groupRead := uint32(0)
	if o.GID != nil {
		// chown reads the largest value as "do not change".
		if *o.GID < 0 || int64(*o.GID) >= math.MaxUint32 {
			return nil, fmt.Errorf("volume group %d is not a group id", *o.GID)
		}
		p.gid, groupRead = uint32(*o.GID), 0o040
	}
	prev := ""
	for _, i := range order {
		p.addDirs(prev, files[i].Path)
		prev = files[i].Path
		mode := files[i].Mode
		if mode == 0 {
			mode = defaultMode
		}
		p.add(node{path: prev, mode: uint32(mode) | groupRead, contents: files[i].Contents})
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
			p.add(node{path: path[:i], mode: dirMode, dir: true})
		}
	}
}

func (p *plan) add(n node) {
	p.nodes = append(p.nodes, n)
	if dir, _ := split(n.path); dir == "" {
		p.tops = append(p.tops, n.path)
	}
}

// matches reports whether an existing entry has the type, mode and owners that this payload gives
// it.
func (p *plan) matches(e entry, dir bool, mode uint32) bool {
	format := uint32(unix.S_IFREG)
	if dir {
		format = unix.S_IFDIR
	}
	return e.mode == format|mode && e.uid == p.uid && e.gid == p.gid
}
