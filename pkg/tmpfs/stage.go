package tmpfs

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

// A stage's directory has a name that no file of a volume can have, since those may not begin with
// "..". The name is never used again, so a process that still writes to an old stage finds no
// directory.
const stagePrefix = "..mayfly-"

var stageName = regexp.MustCompile(`^\.\.mayfly-[0-9a-f]{32}$`)

// beneath keeps a look-up inside of the directory that it begins at. A stage is a mount of its own,
// so the first step may enter one.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// Stage is a file system of its own inside a mounted volume, for another process to write to. Every
// process that sees the mounts below kubelet's directory sees it. A pod does not, because kubelet
// mounts the volume into the pod without the mounts inside. Close removes it; after a crash SweepStages
// or unpublishing the volume does.
type Stage struct {
	mounts *Mounter
	volume directory
	name   string
	root   *os.File
}

// MakeStage makes a stage in the tmpfs that is mounted at target. Calls for one target must not run
// at the same time.
func (m *Mounter) MakeStage(target string, o Options) (_ *Stage, err error) {
	volume, err := m.openTmpfs(target)
	if err != nil {
		return nil, err
	}
	var random [16]byte
	_, _ = rand.Read(random[:]) // never fails
	stage := &Stage{mounts: m, volume: volume, name: fmt.Sprintf("%s%x", stagePrefix, random)}
	defer func() {
		if err != nil {
			err = errors.Join(err, stage.Close())
		}
	}()
	if err := unix.Mkdirat(volume.fd, stage.name, 0o700); err != nil {
		return nil, fmt.Errorf("making a directory in %q: %w", volume.path, err)
	}
	if err := m.Mount(stage.Path(), o); err != nil {
		return nil, err
	}
	if stage.root, err = stage.open(); err != nil {
		return nil, err
	}
	info, err := m.inspect(location{fd: int(stage.root.Fd())})
	if err != nil || !info.Ours {
		return nil, fmt.Errorf("the mount at %q is not the one just made: %w", stage.Path(), cmp.Or(err, ErrForeign))
	}
	return stage, nil
}

func (s *Stage) open() (*os.File, error) {
	fd, err := unix.Openat2(s.volume.fd, s.name, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: beneath,
	})
	if err != nil {
		return nil, fmt.Errorf("opening %q: %w", s.Path(), err)
	}
	return os.NewFile(uintptr(fd), s.Path()), nil
}

// Path is the stage's path for other processes.
func (s *Stage) Path() string { return filepath.Join(s.volume.path, s.name) }

// Root is the open stage directory, until Close.
func (s *Stage) Root() *os.File { return s.root }

// Close removes the stage and its contents.
func (s *Stage) Close() error {
	if s.root != nil {
		_ = s.root.Close()
	}
	defer s.volume.close()
	return removeStage(s.mounts, s.volume, s.name)
}

// removeStage accepts that parts of the stage are missing.
func removeStage(m *Mounter, volume directory, name string) error {
	path := filepath.Join(volume.path, name)
	if err := m.UnmountAny(path); err != nil {
		return err
	}
	err := unix.Unlinkat(volume.fd, name, unix.AT_REMOVEDIR)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing directory %q: %w", path, err)
	}
	return nil
}

// SweepStages removes the stages that a crash left in the volume at target. No stage of that volume may
// be in use.
func (m *Mounter) SweepStages(target string) error {
	volume, err := m.openTmpfs(target)
	if err != nil {
		return err
	}
	defer volume.close()
	list, err := readNames(volume)
	if err != nil {
		return err
	}
	var problems []error
	for _, name := range list {
		if stageName.MatchString(name) {
			problems = append(problems, removeStage(m, volume, name))
		}
	}
	return errors.Join(problems...)
}

func readNames(d directory) ([]string, error) {
	f, err := d.reopen()
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return f.Readdirnames(-1)
}
