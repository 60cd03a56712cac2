package tmpfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func listed(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries := testkit.Value(os.ReadDir(dir))(t)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func mounted(t *testing.T, m *Mounter) string {
	t.Helper()
	dir := newDir(t)
	testkit.Must(t, m.Mount(dir, Options{Size: 1 << 20, Inodes: 64}))
	return dir
}

var stageOptions = Options{Size: 64 << 10, Inodes: 8, Mode: 0o700}

func TestStage(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		dir := mounted(t, m)
		s := testkit.Value(m.MakeStage(dir, stageOptions))(t)
		info, err := m.Inspect(s.Path())
		if err != nil || !info.Ours || !info.Has("nosuid") || !info.Has("nodev") || !info.Has("noexec") || !info.Has("mode=700") {
			t.Errorf("the stage is %+v, %v", info, err)
		}
		if !strings.HasPrefix(s.Path(), dir+"/..mayfly-") || len(listed(t, dir)) != 1 {
			t.Errorf("path %q, the volume holds %q", s.Path(), listed(t, dir))
		}
		testkit.Must(t, os.WriteFile(s.Path()+"/a", []byte("x"), 0o600))
		testkit.Is(t, os.WriteFile(s.Path()+"/big", make([]byte, 1<<20), 0o600), unix.ENOSPC) // a file over the limit
		late, err := os.OpenFile(s.Path()+"/late", os.O_CREATE|os.O_WRONLY, 0o600)            // keeps the mount busy
		testkit.Must(t, err)
		defer func() { _ = late.Close() }()
		if names, err := s.Root().Readdirnames(-1); err != nil || len(names) != 3 {
			t.Errorf("the root shows %q, %v", names, err)
		}
		testkit.Must(t, s.Close())
		testkit.Empty(t, "what is left", listed(t, dir))
		testkit.Is(t, os.WriteFile(s.Path()+"/a", nil, 0o600), fs.ErrNotExist) // a late writer
	})
}

func TestStageNeedsAMountedTmpfs(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		dir := newDir(t)
		if _, err := m.MakeStage(dir, stageOptions); !errors.Is(err, ErrNotMounted) {
			t.Errorf("no mount: %v", err)
		}
		testkit.Is(t, m.SweepStages(dir), ErrNotMounted) // no mount
		if _, err := m.MakeStage("/proc", stageOptions); !errors.Is(err, ErrForeign) {
			t.Errorf("no tmpfs: %v", err)
		}
		dir = mounted(t, m)
		if _, err := m.MakeStage(dir, Options{}); err == nil || len(listed(t, dir)) > 0 {
			t.Errorf("bad options: %v, left %q", err, listed(t, dir))
		}
	})
}

// A crash leaves a directory, or one with a mount on it; a directory with a similar name is
// foreign.
func TestSweep(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		dir := mounted(t, m)
		s := testkit.Value(m.MakeStage(dir, stageOptions))(t)
		testkit.Must(t, os.WriteFile(s.Path()+"/a", nil, 0o600))
		_ = s.root.Close()
		s.volume.close()
		for _, name := range []string{stagePrefix + strings.Repeat("0", 32), stagePrefix + "other", "..data"} {
			testkit.Must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		}
		for range 2 {
			testkit.Must(t, m.SweepStages(dir))
		}
		testkit.Equal(t, "what is left", strings.Join(listed(t, dir), " "), "..data "+stagePrefix+"other")
	})
}

// Unmounting the volume also removes the mounts inside.
func TestUnmountTakesStagesAlong(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		dir := mounted(t, m)
		s := testkit.Value(m.MakeStage(dir, stageOptions))(t)
		_ = s.root.Close()
		s.volume.close()
		testkit.Must(t, m.Cleanup(dir))
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the target is left: %v", err)
		}
		testkit.Must(t, os.Mkdir(dir, 0o700))
	})
}
