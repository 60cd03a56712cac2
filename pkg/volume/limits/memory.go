package limits

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

// CostOf returns what the kernel charges for one payload, in bytes.
func CostOf(files []atomicdir.File) int64 {
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

// Memory charges a budget for the contents of volumes. A volume has a charge from before
// it is mounted until it is unmounted: for two payloads, because a new one is written
// while the old one is still there.
type Memory struct {
	budget *budget.Budget
	log    *slog.Logger

	mu      sync.Mutex
	charges map[string]*budget.Charge // by the volume's id
}

// NewMemory returns a Memory that charges b; nil for no limit.
func NewMemory(b *budget.Budget, log *slog.Logger) *Memory {
	return &Memory{budget: b, log: log, charges: map[string]*budget.Charge{}}
}

func (m *Memory) chargeOf(o budget.Owner) *budget.Charge {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.charges[o.Volume]
	if !ok {
		c = m.budget.Adopt(o, budget.Contents, 0)
		m.charges[o.Volume] = c
	}
	return c
}

// Release ends the charge of a volume that is not mounted.
func (m *Memory) Release(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.charges[id].Release()
	delete(m.charges, id)
}

// Adopt charges the content of a mounted volume, also if that exceeds the limits: a live
// volume keeps its content, and nothing new is written until there is room. It returns the
// size of the payload, which it measures if size is 0, of a volume without a record.
func (m *Memory) Adopt(o budget.Owner, target string, size int64) int64 {
	charge := m.chargeOf(o)
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		m.log.Error("measuring a volume", logkey.Volume, o.Volume, logkey.Target, target, logkey.Error, err)
	}
	used := mountCost + int64(st.Blocks-st.Bfree)*int64(st.Bsize) + int64(st.Files-st.Ffree)*adoptedInode
	if size == 0 {
		size = used
	}
	charge.Set(max(charge.Bytes(), used, 2*size))
	return size
}

// Expect makes room for a payload of at least a size before the store is asked.
func (m *Memory) Expect(o budget.Owner, size int64) error {
	charge := m.chargeOf(o)
	size = max(size, mountCost)
	if 2*size <= charge.Bytes() {
		return nil
	}
	return noRoom(size, charge.Resize(2*size))
}

// Reserve charges for a payload before it is written: once for itself, and once for the
// larger of the old payload, which stays until the next write, and the next one of the
// same size. So a live volume always has room for a change that does not make it larger.
// The caller must call undo if the write fails.
func (m *Memory) Reserve(o budget.Owner, old, size int64) (undo func(), err error) {
	charge := m.chargeOf(o)
	before := charge.Bytes()
	if err := noRoom(size, charge.Resize(size+max(size, old))); err != nil {
		return nil, err
	}
	return func() { charge.Set(before) }, nil
}

// Use charges for the content of the volume after a write, and returns its size. If the
// write changed nothing, the volume has one payload only.
func (m *Memory) Use(o budget.Owner, old, size int64, changed bool) int64 {
	if charge := m.chargeOf(o); changed {
		charge.Set(size + max(size, old))
	} else {
		charge.Set(2 * size)
	}
	return size
}

func noRoom(size int64, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("a payload that takes %d bytes of memory, with as much again for the next one beside it: %w", size, err)
}
