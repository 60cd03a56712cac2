package volume

import (
	"errors"

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
func (p *Publisher) contentOf(target string, info tmpfs.Info) (content, error) {
	if !info.Mounted {
		return nothing, nil
	}
	conflict := fault.New(fault.Conflict, "the target path %q is mounted by something else: %s from %q", target, info.FSType, info.Source).
		WithHint("this driver takes away what it mounted, and nothing else: unmount it by hand")
	if info.FSType != "tmpfs" || info.Root != "/" {
		return nothing, conflict
	}
	dir, err := p.openVolume(target)
	if err != nil {
		return nothing, err
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

// openVolume opens the tmpfs at the target, and nothing else: it may have been
// unmounted since it was looked at, and then the files would land on the node's
// disk.
func (p *Publisher) openVolume(target string) (*atomicdir.Dir, error) {
	root, err := p.Mounts.Open(target)
	if errors.Is(err, tmpfs.ErrNotMounted) {
		return nil, notMounted(target)
	}
	if err != nil {
		return nil, fault.New(fault.Mount, "opening the volume: %w", err)
	}
	defer func() { _ = root.Close() }()
	dir, err := atomicdir.OpenFile(root)
	if err != nil {
		return nil, fault.New(fault.Mount, "opening the volume: %w", err)
	}
	return dir, nil
}

func notMounted(target string) error {
	return fault.New(fault.Mount, "the tmpfs at %q is no longer mounted", target).
		WithHint("kubelet's next republish mounts it again; a running pod sees it after it was re-created")
}
