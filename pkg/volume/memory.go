package volume

import (
	"fmt"
	"log/slog"
	"path"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
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

// memory charges the budget for the contents of the volumes. A volume has a
// charge from the time before it is mounted until it is unmounted: one payload
// and as much again, since a new payload is written beside the old one.
type memory struct {
	budget *budget.Budget
	log    *slog.Logger

	mu      sync.Mutex
	charges map[string]*budget.Charge // by the volume's id
}

func (m *memory) chargeOf(i Identity) *budget.Charge {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.charges[i.ID]
	if !ok {
		c = m.budget.Adopt(budget.Owner{Namespace: i.Pod.Namespace, Volume: i.ID}, budget.Contents, 0)
		m.charges[i.ID] = c
	}
	return c
}

func (m *memory) release(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.charges[id].Release()
	delete(m.charges, id)
}

// adopt charges what a mounted volume has in it, whatever the limits: nothing
// live is harmed, and nothing new is written until it fits.
func (m *memory) adopt(rec *Record) {
	charge := m.chargeOf(rec.Identity)
	var st unix.Statfs_t
	if err := unix.Statfs(rec.Target, &st); err != nil {
		m.log.Error("measuring a volume", logkey.Volume, rec.ID, logkey.Target, rec.Target, logkey.Error, err)
	}
	used := mountCost + int64(st.Blocks-st.Bfree)*int64(st.Bsize) + int64(st.Files-st.Ffree)*inodeKept
	if rec.Size == 0 { // of a record that does not say, or lost
		rec.Size = used
	}
	charge.Set(max(charge.Bytes(), used, 2*rec.Size))
}

// expect refuses a run whose payload cannot be written, before the store is asked.
// A live volume has its room; one that an earlier process filled beyond today's
// limits has not, and waits, unless credentials in it must be renewed. A new one
// needs what others of its class need, least.
func (m *memory) expect(rec *Record, least func() int64) error {
	size := rec.Size
	if !rec.published() {
		size = max(size, mountCost, least())
	} else if len(rec.Ends) > 0 {
		return nil
	}
	charge := m.chargeOf(rec.Identity)
	if 2*size <= charge.Bytes() {
		return nil
	}
	return noRoom(size, charge.Resize(2*size))
}

// reserve charges the payload before it is written: once for itself, and once
// more for the larger of the old one, which stays beside it until the next write,
// and the next of the same size. So a volume that is live never lacks the room
// for a change that does not make it larger. The func that it returns undoes
// that.
func (m *memory) reserve(rec *Record, size int64) (undo func(), err error) {
	charge := m.chargeOf(rec.Identity)
	before := charge.Bytes()
	if err := noRoom(size, charge.Resize(size+max(size, rec.Size))); err != nil {
		return nil, err
	}
	return func() { charge.Set(before) }, nil
}

// use charges what the volume has in it after a write. If that changed nothing,
// the payload before is gone.
func (m *memory) use(rec *Record, size int64, changed bool) {
	if charge := m.chargeOf(rec.Identity); changed {
		charge.Set(size + max(size, rec.Size))
	} else {
		charge.Set(2 * size)
	}
	rec.Size = size
}

func noRoom(size int64, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("a payload that takes %d bytes of memory, with as much again for the next one beside it: %w", size, err)
}
