package volume

import (
	"fmt"
	"path"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
)

// What the kernel charges to the driver's cgroup for files in a tmpfs, in
// bytes: whole pages, and objects of its own that no limit of the tmpfs counts.
const (
	pageSize = 4096
	// inodeCost is an inode and its entry in a directory.
	inodeCost = 1024
	// inlineName is the longest name that is kept in the entry itself; a longer
	// one is allocated beside it, with a head.
	inlineName   = 32
	longNameHead = 32
	// mountCost is a mount with its root, ..data and the payload's directory.
	mountCost = 16 << 10
)

// inodeKept is what an inode of an earlier process is charged with: its name is
// not looked at.
const inodeKept = inodeCost + longNameHead + 64

// costOf is what the kernel charges for one payload.
func costOf(files []atomicdir.File) int64 {
	total := int64(mountCost)
	for dir := range directories(files) {
		total += entryCost(path.Base(dir))
		if path.Dir(dir) == "." { // its link
			total += 2 * entryCost(dir)
		}
	}
	for _, f := range files {
		pages := (int64(len(f.Contents)) + pageSize - 1) / pageSize
		total += pages*pageSize + entryCost(path.Base(f.Path))
		if path.Dir(f.Path) == "." {
			total += 2 * entryCost(f.Path)
		}
	}
	return total
}

// entryCost is an inode with a name. A link's target, which holds the name once
// more, is counted as if it were another.
func entryCost(name string) int64 {
	if len(name) <= inlineName {
		return inodeCost
	}
	return inodeCost + longNameHead + int64(len(name))
}

// rooms are the charges for the contents of volumes, by the volume's id. A
// volume has one from the time before it is mounted until it is unmounted.
type rooms struct {
	budget *budget.Budget

	mu      sync.Mutex
	charges map[string]*budget.Charge
}

func (r *rooms) of(rec *Record) *budget.Charge {
	r.mu.Lock()
	defer r.mu.Unlock()
	c, ok := r.charges[rec.ID]
	if !ok {
		c = r.budget.Adopt(budget.Owner{Namespace: rec.Pod.Namespace, Volume: rec.ID}, budget.Contents, 0)
		r.charges[rec.ID] = c
	}
	return c
}

func (r *rooms) release(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.charges[id].Release()
	delete(r.charges, id)
}

// adoptContents charges what a mounted volume holds already, whatever the
// limits: nothing live is harmed, and nothing new is written until it fits.
func (p *Publisher) adoptContents(rec *Record) {
	charge := p.rooms.of(rec)
	var st unix.Statfs_t
	if err := unix.Statfs(rec.Target, &st); err != nil {
		p.Logger.Error("measuring a volume", "volume", rec.ID, "target", rec.Target, "error", err)
	}
	used := mountCost + int64(st.Blocks-st.Bfree)*int64(st.Bsize) + int64(st.Files-st.Ffree)*inodeKept
	if rec.Size == 0 { // of a record that does not say, or lost
		rec.Size = used
	}
	charge.Set(max(charge.Bytes(), used, 2*rec.Size))
}

// expectRoom refuses a pass whose payload cannot be written, before the store is
// asked. A live volume has its room; one that an earlier process filled beyond
// today's limits has not, and waits, unless it holds credentials that must be
// renewed. A new one needs what others of its class need.
func (p *Publisher) expectRoom(w pass, c *class.Class) error {
	size := w.rec.Size
	if !w.rec.published() {
		size = max(size, mountCost, p.leastSize(c))
	} else if len(w.rec.HeldEnds) > 0 {
		return nil
	}
	charge := p.rooms.of(w.rec)
	if 2*size <= charge.Bytes() {
		return nil
	}
	return noRoom(c, size, charge.Resize(2*size))
}

// leastSize is the smallest of the payloads that this version of the class has
// made; 0 where there is none.
func (p *Publisher) leastSize(c *class.Class) (least int64) {
	if c.ResourceVersion == "" {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.entries {
		if known, ok := e.peek(); ok && known.Class == c.Ref && known.madeBy(c.ResourceVersion) && (least == 0 || known.Size < least) {
			least = known.Size
		}
	}
	return least
}

// makeRoom charges the payload before it is written: once for itself, and once
// more for the larger of the old one, which stays beside it until the next write,
// and the next of the same size. So a volume that is live never lacks the room
// for a change that does not make it larger. The func that it returns undoes
// that.
func (p *Publisher) makeRoom(rec *Record, c *class.Class, size int64) (undo func(), err error) {
	charge := p.rooms.of(rec)
	before := charge.Bytes()
	if err := noRoom(c, size, charge.Resize(size+max(size, rec.Size))); err != nil {
		return nil, err
	}
	return func() { charge.Set(before) }, nil
}

// holds notes what the volume holds after a write. Where that changed nothing,
// the payload before is gone.
func (p *Publisher) holds(rec *Record, size int64, changed bool) {
	if charge := p.rooms.of(rec); changed {
		charge.Set(size + max(size, rec.Size))
	} else {
		charge.Set(2 * size)
	}
	rec.Size = size
}

func noRoom(c *class.Class, size int64, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("a payload that takes %d bytes of memory, with as much again for the next one beside it: %w", size, err)
}
