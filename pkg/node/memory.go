package node

import (
	"log/slog"
	"os"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/cgroup"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// Auto derives a limit from another one.
const Auto = -1

const (
	// processNeeds is the memory of the process itself, which the budget does not count. It stays
	// below 45 MB with 500 volumes.
	processNeeds = 64 << 20
	// minHeap is the lowest limit for the Go heap: below it the process would spend most of its
	// time collecting garbage.
	minHeap = 24 << 20
)

// budgetFor returns the memory budget for the container's limit, 0 for none: the limit less what
// the process needs. That is at least a quarter of a large limit, since the garbage collector needs
// space, and the budget is at least a third of a small one.
func budgetFor(limit int64) int64 {
	if limit <= 0 {
		return 0
	}
	return max(limit-max(processNeeds, limit/4), limit/3)
}

// limits combines the flags with the container's limit.
func (c *Config) limits(limit int64) budget.Limits {
	l := budget.Limits{Node: c.MemoryBudget, Namespace: c.NamespaceMemory, Volume: c.VolumeMemory}
	if l.Node == Auto {
		l.Node = budgetFor(limit)
	}
	if l.Namespace == Auto {
		l.Namespace = l.Node / 2
	}
	if l.Volume == Auto {
		l.Volume = l.Node / 3
	}
	// The rest is for records that are being replaced.
	l.Records = budget.Share{Node: c.StateSize - c.StateSize/8, Namespace: c.NamespaceState}
	if l.Records.Namespace == Auto {
		l.Records.Namespace = c.StateSize / 4
	}
	return l
}

// heapLimit is what the Go runtime may use when outside bytes of the same limit are used elsewhere:
// by files in tmpfs. The kernel gets a sixteenth, for sockets, page tables and the like.
func heapLimit(limit, outside int64) int64 {
	return max(limit-limit/16-outside, limit/4, minHeap)
}

// buildBudget makes the node's one Budget, which buildVolumes passes to the volumes and the state,
// providers to the providers, and newClasses to the class sources.
func (n *Node) buildBudget() error {
	limit, file, err := cgroup.MemoryLimit(os.DirFS("/"))
	if err != nil {
		n.c.Logger.Warn("reading the container's memory limit failed, assuming none", logkey.Error, err)
	}
	limits := n.c.limits(limit)
	n.budget = budget.New(limits)
	n.metrics.WatchBudget(n.budget.Usage)
	log := n.c.Logger.With(slog.Int64(logkey.MemoryLimit, limit), slog.String(logkey.Of, file), slog.String(logkey.Limits, limits.String()))
	switch {
	case limits.Node == 0 && n.c.MemoryBudget == Auto:
		log.Info("no memory budget: the driver's container has no memory limit; --memory-budget gives one")
	case limits.Node == 0:
		log.Info("no memory budget")
	case limit > 0 && limits.Node > budgetFor(limit):
		log.Warn("the memory budget is more than the container's memory limit leaves: the kernel may kill the driver; lower --memory-budget or raise the limit", logkey.Leaves, budgetFor(limit))
	default:
		log.Info("memory budget")
	}
	if limit > 0 && n.c.SetMemoryLimit != nil {
		n.budget.Follow(limit/64, func(outside int64) { n.c.SetMemoryLimit(heapLimit(limit, outside)) }, budget.Contents, budget.Records)
	}
	return nil
}
