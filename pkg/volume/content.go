package volume

import (
	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
)

// content is what lies at a target path.
type content int

const (
	nothing  content = iota // no mount
	empty                   // our tmpfs, without a payload
	complete                // our tmpfs, with a whole payload
)

// contentOf refuses to touch what is not ours. A tmpfs of another maker that
// holds a payload in the same layout is adopted: it is a volume of the driver
// that Mayfly took over from.
func contentOf(target string, info tmpfs.Info) (content, error) {
	if !info.Mounted {
		return nothing, nil
	}
	conflict := fault.New(fault.Conflict, "the target path %q is mounted by something else: %s from %q", target, info.FSType, info.Source).
		WithHint("this driver takes away what it mounted, and nothing else: unmount it by hand")
	if info.FSType != "tmpfs" || info.Root != "/" {
		return nothing, conflict
	}
	dir, err := atomicdir.Open(target)
	if err != nil {
		return nothing, fault.New(fault.Mount, "opening the volume: %w", err)
	}
	defer func() { _ = dir.Close() }()
	whole, err := dir.Complete()
	switch {
	case err != nil:
		return nothing, fault.New(fault.Mount, "looking into the volume: %w", err)
	case whole:
		return complete, nil
	case info.Ours:
		return empty, nil
	}
	return nothing, conflict
}
