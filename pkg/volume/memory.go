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

// What the kernel charges to the driver's cgroup for files in a tmpfs, in bytes: whole
// pages, and kernel objects, which no limit of the tmpfs counts.
const (
	pageSize = 4096
	// inodeCost is for an inode and its directory entry.
	inodeCost = 1024
	// inlineName is the longest name within the directory entry; a longer one is
	// allocated separately, with a header.
	inlineName   = 32
	longNameHead = 32
	// mountCost is for a mount with its root, ..data and the payload's directory.
	mountCost = 16 << 10
)

// adoptedInode is the charge for an inode of an earlier process, whose name is not
// read.
const adoptedInode = inodeCost + longNameHead + 64

// costOf returns what the kernel charges for one payload, in bytes.
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

// entryCost is for an inode with a name. A link's target has the name once more and
// counts as another inode.
func entryCost(name string) int64 {
	if len(name) <= inlineName {
		return inodeCost
	}
	return inodeCost + longNameHead + int64(len(name))
}

// memory charges the budget for the contents of the volumes. A volume has a charge
// from before it is mounted until it is unmounted: for two payloads, because a new
// one is written while the old one is still there.
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

// adopt charges the content of a mounted volume, also if that exceeds the limits: a
// live volume keeps its content, and nothing new is written until there is room.
func (m *memory) adopt(rec *Record) {
	charge := m.chargeOf(rec.Identity)
	var st unix.Statfs_t
	if err := unix.Statfs(rec.Target, &st); err != nil {
		m.log.Error("measuring a volume", logkey.Volume, rec.ID, logkey.Target, rec.Target, logkey.Error, err)
	}
	used := mountCost + int64(st.Blocks-st.Bfree)*int64(st.Bsize) + int64(st.Files-st.Ffree)*adoptedInode
	if rec.Size == 0 { // the record is lost
		rec.Size = used
	}
	charge.Set(max(charge.Bytes(), used, 2*rec.Size))
}

// expect refuses a run whose payload would not fit, before the store is asked. For a
// new volume it expects the size of the smallest payload of the class, least. A live
// volume has its room, except one that exceeds limits which are lower since a
// restart; such a volume waits, unless its credentials must be renewed.
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

// reserve charges for the payload before it is written: once for itself, and once for
// the larger of the old payload, which stays until the next write, and the next one of
// the same size. So a live volume always has room for a change that does not make it
// larger. The caller must call undo if the write fails.
func (m *memory) reserve(rec *Record, size int64) (undo func(), err error) {
	charge := m.chargeOf(rec.Identity)
	before := charge.Bytes()
	if err := noRoom(size, charge.Resize(size+max(size, rec.Size))); err != nil {
		return nil, err
	}
	return func() { charge.Set(before) }, nil
}

// use charges for the content of the volume after a write. If the write changed
// nothing, the volume has one payload only.
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
