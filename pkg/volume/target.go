package volume

import (
	"errors"
	"io/fs"
	"os"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
)

// Mounts is the kernel's side of a volume.
type Mounts interface {
	Inspect(target string) (tmpfs.Info, error)
	// Open opens the root of the tmpfs at target: tmpfs.ErrNotMounted where
	// there is none. What is written relative to the file lies in that tmpfs.
	Open(target string) (*os.File, error)
	Mount(target string, o tmpfs.Options) error
	// Resize gives a live mount other limits.
	Resize(target string, size, inodes int64) error
	// Cleanup takes away what Mount made, and the directory under it;
	// CleanupAny whatever is mounted there.
	Cleanup(target string) error
	CleanupAny(target string) error
	Stats(target string) (tmpfs.Stats, error)
}

// Stages makes directories in a mounted volume for providers that write files
// themselves.
type Stages interface {
	Make(target string, o tmpfs.Options) (provider.Stage, error)
	// Sweep takes away what a crash has left of them.
	Sweep(target string) error
}

// content is what lies at a target path.
type content int

const (
	nothing  content = iota // no mount
	empty                   // our tmpfs, without a payload
	complete                // our tmpfs, with a whole payload
)

// targets does the work at target paths, on mounts and files.
type targets struct{ *Config }

// look tells what is at the target path. It refuses what is not ours. A tmpfs of
// another maker that holds a payload in the same layout is adopted: it is a
// volume of the driver that Mayfly took over from.
func (t targets) look(target string) (content, error) {
	info, err := t.inspect(target)
	if err != nil {
		return nothing, err
	}
	return t.contentOf(target, info)
}

func (t targets) inspect(target string) (tmpfs.Info, error) {
	info, err := t.Mounts.Inspect(target)
	if err != nil {
		return info, fault.New(fault.Mount, "inspecting the target path %q: %w", target, err)
	}
	return info, nil
}

func (t targets) contentOf(target string, info tmpfs.Info) (content, error) {
	if !info.Mounted {
		return nothing, nil
	}
	conflict := fault.New(fault.Conflict, "the target path %q is mounted by something else: %s from %q", target, info.FSType, info.Source).
		WithHint("this driver takes away what it mounted, and nothing else: unmount it by hand")
	if info.FSType != "tmpfs" || info.Root != "/" {
		return nothing, conflict
	}
	dir, err := t.open(target)
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

// open opens the tmpfs at the target, and nothing else: it may have been
// unmounted since it was looked at, and then the files would land on the node's
// disk.
func (t targets) open(target string) (*atomicdir.Dir, error) {
	root, err := t.Mounts.Open(target)
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

// check refuses to write below a mount that is gone. Kubelet's next republish
// mounts again. With resize, a mount of ours gets the limits of o.
func (t targets) check(i Identity, o tmpfs.Options, resize bool) error {
	info, err := t.inspect(i.Target)
	if err != nil {
		return err
	}
	found, err := t.contentOf(i.Target, info)
	switch {
	case err != nil:
		return err
	case found == nothing:
		return notMounted(i.Target)
	case !resize || !info.Ours:
		return nil
	}
	if err := t.Mounts.Resize(i.Target, o.Size, o.Inodes); err != nil {
		return fault.New(fault.Mount, "giving the volume the size that class %s now asks for: %w", i.Class, err)
	}
	return nil
}

// mount makes the target directory if kubelet has not, and mounts the tmpfs.
func (t targets) mount(target string, o tmpfs.Options) error {
	err := os.Mkdir(target, 0o750)
	made := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fault.New(fault.Mount, "creating the target path: %w", err).
			WithHint("kubelet makes its parent directory before it calls")
	}
	if err := t.Mounts.Mount(target, o); err != nil {
		if made {
			_ = os.Remove(target)
		}
		return fault.New(fault.Mount, "mounting the volume: %w", err)
	}
	return nil
}

// undo takes away what mount made.
func (t targets) undo(i Identity) {
	if err := t.Mounts.Cleanup(i.Target); err != nil {
		t.Logger.Error("undoing a failed publish", logkey.Volume, i.ID, logkey.Target, i.Target, logkey.Error, err)
	}
}

// unmount takes away a tmpfs that is ours or that a driver before us made,
// and the directory under it; nothing else.
func (t targets) unmount(target string) error {
	info, err := t.inspect(target)
	if err != nil || !info.Exists {
		return err
	}
	if _, err := t.contentOf(target, info); err != nil {
		return err
	}
	clean := t.Mounts.Cleanup
	if info.Mounted && !info.Ours {
		clean = t.Mounts.CleanupAny
	}
	if err := clean(target); err != nil {
		return fault.New(fault.Mount, "unmounting the volume: %w", err)
	}
	return nil
}

// write swaps the files in, all or nothing.
func (t targets) write(r *Request, files []atomicdir.File) (changed bool, err error) {
	dir, err := t.open(r.Target)
	if err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }()
	changed, err = dir.Write(files, atomicdir.Options{GID: r.GID})
	if err == nil {
		return changed, nil
	}
	reason := fault.Mount
	var bad *atomicdir.PathError
	switch {
	case errors.As(err, &bad):
		reason = fault.InvalidClass
	case errors.Is(err, atomicdir.ErrNoSpace):
		reason = fault.TooLarge
	}
	return false, fault.New(reason, "writing the files of volume %s at %q: %w", r.ID, r.Target, err)
}

// repair makes a volume what it is without a crash in the middle of a write. What
// cannot be repaired now is by the next write.
func (t targets) repair(i Identity) {
	t.sweep(i)
	dir, err := t.open(i.Target)
	if err == nil {
		err = errors.Join(dir.Repair(), dir.Close())
	}
	if err != nil {
		t.Logger.Error("repairing the links of a volume", logkey.Volume, i.ID, logkey.Target, i.Target, logkey.Error, err)
	}
}

// sweep takes away the stages that a crash has left. What stays is no harm to the
// volume, and goes with it.
func (t targets) sweep(i Identity) {
	if t.Stages == nil {
		return
	}
	if err := t.Stages.Sweep(i.Target); err != nil {
		t.Logger.Error("sweeping a volume", logkey.Volume, i.ID, logkey.Target, i.Target, logkey.Error, err)
	}
}

// stats measures a published volume. The path must be one that we mounted, so
// that nobody learns of the node's other file systems through it.
func (t targets) stats(id, path string) (tmpfs.Stats, error) {
	stats, err := t.Mounts.Stats(path)
	switch {
	case errors.Is(err, tmpfs.ErrNotMounted), errors.Is(err, tmpfs.ErrForeign), errors.Is(err, tmpfs.ErrTarget), errors.Is(err, fs.ErrNotExist), errors.Is(err, tmpfs.ErrNotDirectory):
		return stats, fault.New(fault.NotFound, "volume %s is not published at %q: %w", id, path, err)
	case err != nil:
		return stats, fault.New(fault.Mount, "measuring the volume: %w", err)
	}
	return stats, nil
}

// stager makes stages in one volume. They are inside of it, because that is where
// the provider looks and no pod does: so the volume is made ready first.
type stager struct {
	targets
	volume  Identity
	options tmpfs.Options
	ready   func() error
}

// stager is nil where there are no Stages.
func (t targets) stager(i Identity, o tmpfs.Options, ready func() error) provider.Stager {
	if t.Stages == nil {
		return nil
	}
	o.Mode, o.GID = 0o700, nil
	return &stager{t, i, o, ready}
}

// Stage implements provider.Stager.
func (s *stager) Stage() (provider.Stage, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	s.sweep(s.volume)
	stage, err := s.Stages.Make(s.volume.Target, s.options)
	if err != nil {
		return nil, fault.New(fault.Mount, "making a place for the provider to write to in %q: %w", s.volume.Target, err)
	}
	return stage, nil
}
