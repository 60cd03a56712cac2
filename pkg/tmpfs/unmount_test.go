package tmpfs

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestUnmountIsIdempotent(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := newTarget(t)
		mustMount(t, m, target, small())
		for range 2 {
			testkit.Must(t, m.Unmount(target))
			if info := mustInspect(t, m, target); info.Mounted || !info.Exists {
				t.Fatalf("found %+v", info)
			}
		}
		for range 2 {
			testkit.Must(t, m.Cleanup(target))
			wantGone(t, m, target)
		}
		testkit.Must(t, m.Unmount(target))
	})
}

func TestUnmountBusy(t *testing.T) {
	m := newMounter(t)
	target := newTarget(t)
	mustMount(t, m, target, small())
	write(t, target+"/file", 5)
	file := testkit.Value(os.Open(target + "/file"))(t)
	defer func() { _ = file.Close() }()
	if err := unix.Unmount(target, 0); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("an open file does not make it busy: %v", err)
	}
	testkit.Must(t, m.Cleanup(target))
	wantGone(t, m, target)
	if n, err := file.Read(make([]byte, 9)); n != 5 {
		t.Errorf("who had it open reads %d bytes, %v", n, err)
	}
}

func TestUnmountStack(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		const ours, foreign = Source, "other"
		tests := map[string]struct {
			stack []string // lowest first
			left  int
		}{
			"ours twice":         {[]string{ours, ours}, 0},
			"foreign":            {[]string{foreign}, 1},
			"ours over foreign":  {[]string{foreign, ours, ours}, 1},
			"foreign over ours":  {[]string{ours, foreign}, 2},
			"foreign in between": {[]string{ours, foreign, ours}, 2},
		}
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				target := newTarget(t)
				for _, source := range test.stack {
					mountBy(t, source, target, "tmpfs", 0, "size=4k")
				}
				err := m.Cleanup(target)
				var conflict *ConflictError
				if test.left > 0 && (!errors.Is(err, ErrForeign) || !errors.As(err, &conflict) || conflict.Info.Source != foreign) {
					t.Errorf("got %v, want ErrForeign", err)
				}
				if test.left == 0 && err != nil {
					t.Error(err)
				}
				if info := mustInspect(t, m, target); depth(t, target) != test.left {
					t.Errorf("left with %+v", info)
				}
				testkit.Must(t, m.CleanupAny(target))
				wantGone(t, m, target)
			})
		}
	})
}

// A link at the target, planted after the volume was mounted elsewhere, must
// neither be followed nor removed.
func TestUnmountFollowsNoLink(t *testing.T) {
	m := newMounter(t)
	volume := newTarget(t)
	mustMount(t, m, volume, small())
	link := volume + "-link"
	testkit.Must(t, os.Symlink(volume, link))
	for _, target := range []string{link, link + "/"} {
		testkit.Must(t, m.UnmountAny(target))
		testkit.Is(t, detach(link), unix.EINVAL) // the kernel does not follow it
		err := m.Cleanup(target)
		if !errors.Is(err, ErrNotDirectory) || !strings.Contains(err.Error(), "symbolic link") {
			t.Errorf("got %v, want ErrNotDirectory", err)
		}
	}
	if _, err := os.Lstat(link); err != nil {
		t.Error(err)
	}
	if info := mustInspect(t, m, volume); !info.Ours {
		t.Errorf("the volume is %+v", info)
	}
}

func TestCleanupKeepsContents(t *testing.T) {
	m := newMounter(t)
	target := newTarget(t)
	write(t, target+"/under", 3)
	mustMount(t, m, target, small())
	write(t, target+"/over", 3)
	err := m.Cleanup(target)
	if !errors.Is(err, unix.ENOTEMPTY) || !strings.Contains(err.Error(), target) {
		t.Errorf("got %v, want ENOTEMPTY with the path", err)
	}
	if mustInspect(t, m, target).Mounted {
		t.Error("still mounted")
	}
	if _, err := os.Stat(target + "/under"); err != nil {
		t.Error(err)
	}
	testkit.Is(t, m.Cleanup(target+"/under"), ErrNotDirectory) // a file
}

func TestUnmountAtOnce(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := newTarget(t)
		for range 30 {
			mkdir(t, target)
			for range 4 {
				mountBy(t, Source, target, "tmpfs", 0, "size=4k")
			}
			errs := make([]error, 4)
			var group sync.WaitGroup
			for i := range errs {
				group.Go(func() { errs[i] = m.Cleanup(target) })
			}
			group.Wait()
			testkit.Must(t, errors.Join(errs...))
			wantGone(t, m, target)
		}
	})
}

func TestUnmountRefusesTargets(t *testing.T) {
	m := &Mounter{}
	for _, target := range []string{"", "x", "/a/../b", "/a\x00"} {
		for name, act := range map[string]func(string) error{
			"Unmount": m.Unmount, "UnmountAny": m.UnmountAny, "Cleanup": m.Cleanup, "CleanupAny": m.CleanupAny,
		} {
			if err := act(target); !errors.Is(err, ErrTarget) {
				t.Errorf("%s(%q): %v", name, target, err)
			}
		}
	}
}
