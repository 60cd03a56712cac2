// Package target works on the target paths of volumes: their mounts and the files in them. It
// changes and removes only what the driver, or a driver before it, has mounted there.
package target

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/staging"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
)

// Mounts mounts, measures and unmounts tmpfs.
type Mounts interface {
	Inspect(target string) (tmpfs.Info, error)
	// Open opens the root of the tmpfs at target, and returns tmpfs.ErrNotMounted if
	// there is none. Files that are written relative to it are in that tmpfs.
	Open(target string) (*os.File, error)
	Mount(target string, o tmpfs.Options) error
	// Resize gives a live mount other limits.
	Resize(target string, size, inodes int64) error
	// Cleanup removes what Mount made, and the directory below it; CleanupAny removes
	// any mount.
	Cleanup(target string) error
	CleanupAny(target string) error
	Stats(target string) (tmpfs.Stats, error)
	// MakeStage makes a directory in a mounted volume for a provider that writes files
	// itself. SweepStages removes those that a crash has left.
	MakeStage(target string, o tmpfs.Options) (*tmpfs.Stage, error)
	SweepStages(target string) error
}

// Content is what is at a target path.
type Content int

// The contents of a target path.
const (
	Nothing  Content = iota // no mount
	Empty                   // a tmpfs of this driver without a payload
	Complete                // a tmpfs with a complete payload
)

// Targets works on target paths.
type Targets struct {
	Mounts Mounts
	Logger *slog.Logger
}

// Look returns what is at the target path, and an error if it is not a volume of the driver. It
// accepts a tmpfs of another program with a payload in the same layout: Mayfly has replaced the
// driver that mounted it.
func (t Targets) Look(target string) (Content, error) {
	info, err := t.inspect(target)
	if err != nil {
		return Nothing, err
	}
	return t.contentOf(target, info)
}

func (t Targets) inspect(target string) (tmpfs.Info, error) {
	info, err := t.Mounts.Inspect(target)
	if err != nil {
		return info, fault.New(fault.Mount, "inspecting the target path %q: %w", target, err)
	}
	return info, nil
}

func (t Targets) contentOf(target string, info tmpfs.Info) (Content, error) {
	if !info.Mounted {
		return Nothing, nil
	}
	conflict := fault.New(fault.Conflict, "the target path %q is mounted by something else: %s from %q", target, info.FSType, info.Source).
		WithHint("this driver takes away what it mounted, and nothing else: unmount it by hand")
	if info.FSType != "tmpfs" || info.Root != "/" {
		return Nothing, conflict
	}
	dir, err := t.open(target)
	if err != nil {
		return Nothing, err
	}
	defer func() { _ = dir.Close() }()
	whole, err := dir.Complete()
	switch {
	case err != nil:
		return Nothing, fault.New(fault.Mount, "looking into the volume: %w", err)
	case whole:
		return Complete, nil
	case info.Ours:
		return Empty, nil
	}
	return Nothing, conflict
}

// open opens the tmpfs at the target. It fails if the tmpfs has been unmounted: otherwise the
// files would be written to the node's disk.
func (t Targets) open(target string) (*atomicdir.Dir, error) {
	root, err := t.Mounts.Open(target)
	if errors.Is(err, tmpfs.ErrNotMounted) {
		return nil, notMounted(target)
	}
	if err != nil {
		return nil, fault.New(fault.Mount, "opening the volume: %w", err)
	}
	defer func() { _ = root.Close() }()
	dir, err := atomicdir.Open(root)
	if err != nil {
		return nil, fault.New(fault.Mount, "opening the volume: %w", err)
	}
	return dir, nil
}

func notMounted(target string) error {
	return fault.New(fault.Mount, "the tmpfs at %q is no longer mounted", target).
		WithHint("kubelet's next republish mounts it again; a running pod sees it after it was re-created")
}

// Check returns an error if the volume is not mounted; kubelet's next republish mounts it again.
// With resize it gives a mount of this driver the limits of o, which class asks for.
func (t Targets) Check(target string, class class.Ref, o tmpfs.Options, resize bool) error {
	info, err := t.inspect(target)
	if err != nil {
		return err
	}
	found, err := t.contentOf(target, info)
	switch {
	case err != nil:
		return err
	case found == Nothing:
		return notMounted(target)
	case !resize || !info.Ours:
		return nil
	}
	if err := t.Mounts.Resize(target, o.Size, o.Inodes); err != nil {
		return fault.New(fault.Mount, "giving the volume the size that class %s now asks for: %w", class, err)
	}
	return nil
}

// Mount makes the target directory if kubelet has not, and mounts the tmpfs.
func (t Targets) Mount(target string, o tmpfs.Options) error {
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

// Undo removes what Mount made for a volume.
func (t Targets) Undo(id, target string) {
	if err := t.Mounts.Cleanup(target); err != nil {
		t.Logger.Error("undoing a failed publish", logkey.Volume, id, logkey.Target, target, logkey.Error, err)
	}
}

// Unmount removes the tmpfs of this driver, or of a driver before it, and the directory below it.
func (t Targets) Unmount(target string) error {
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

// Write replaces the files of a volume, all or none. gid is the pod's fsGroup, nil for none.
func (t Targets) Write(id, target string, gid *uint32, files []atomicdir.File) (changed bool, err error) {
	dir, err := t.open(target)
	if err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }()
	changed, err = dir.Write(files, atomicdir.Options{GID: gid})
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
	return false, fault.New(reason, "writing the files of volume %s at %q: %w", id, target, err)
}

// Repair repairs a volume after a crash during a write. If it fails, the next write repairs the
// volume.
func (t Targets) Repair(id, target string) {
	t.sweep(id, target)
	dir, err := t.open(target)
	if err == nil {
		err = errors.Join(dir.Repair(), dir.Close())
	}
	if err != nil {
		t.Logger.Error("repairing the links of a volume", logkey.Volume, id, logkey.Target, target, logkey.Error, err)
	}
}

// sweep removes the stages that a crash has left. If it fails, the volume works, and unpublishing it
// removes them.
func (t Targets) sweep(id, target string) {
	if err := t.Mounts.SweepStages(target); err != nil {
		t.Logger.Error("removing earlier payloads of a volume", logkey.Volume, id, logkey.Target, target, logkey.Error, err)
	}
}

// Stats measures a published volume. It refuses a path that the driver has not mounted, so that a
// caller learns nothing of the node's other file systems.
func (t Targets) Stats(id, path string) (tmpfs.Stats, error) {
	stats, err := t.Mounts.Stats(path)
	switch {
	case errors.Is(err, tmpfs.ErrNotMounted), errors.Is(err, tmpfs.ErrForeign), errors.Is(err, tmpfs.ErrTarget), errors.Is(err, fs.ErrNotExist), errors.Is(err, tmpfs.ErrNotDirectory):
		return stats, fault.New(fault.NotFound, "volume %s is not published at %q: %w", id, path, err)
	case err != nil:
		return stats, fault.New(fault.Mount, "measuring the volume: %w", err)
	}
	return stats, nil
}

// stager makes stages in one volume. They are inside the volume, where the provider sees them and
// no pod does, so the volume is mounted first.
type stager struct {
	Targets
	id, target string
	options    tmpfs.Options
	ready      func() error
}

// Stager returns what makes stages in a volume once ready has returned nil.
func (t Targets) Stager(id, target string, o tmpfs.Options, ready func() error) provider.Stager {
	o.Mode, o.GID = 0o700, nil
	return &stager{t, id, target, o, ready}
}

// Stage implements provider.Stager.
func (s *stager) Stage() (provider.Stage, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	s.sweep(s.id, s.target)
	stage, err := s.Mounts.MakeStage(s.target, s.options)
	if err != nil {
		return nil, fault.New(fault.Mount, "making a place for the provider to write to in %q: %w", s.target, err)
	}
	return staging.Stage{Stage: stage}, nil
}
