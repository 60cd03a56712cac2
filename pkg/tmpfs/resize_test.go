package tmpfs

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestStats(t *testing.T) {
	m := newMounter(t)
	target := newTarget(t)
	page := int64(os.Getpagesize())
	mustMount(t, m, target, Options{Size: 16 * page, Inodes: 10})
	write(t, target+"/one", 1)
	write(t, target+"/two", int(page)+1)
	got, err := m.Stats(target)
	want := Stats{
		Bytes:  Usage{Total: 16 * page, Used: 3 * page, Available: 13 * page},
		Inodes: Usage{Total: 10, Used: 3, Available: 7},
	}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

// wantVolume checks that act works on volumes alone.
func wantVolume(t *testing.T, act func(target string) error) {
	t.Helper()
	target := newTarget(t)
	if err := act(target); !errors.Is(err, ErrNotMounted) || !strings.Contains(err.Error(), target) {
		t.Errorf("not mounted: %v", err)
	}
	testkit.Is(t, act(target+"/missing"), fs.ErrNotExist)
	mountBy(t, "other", target, "tmpfs", 0, "size=4k")
	testkit.Is(t, act(target), ErrForeign) // foreign
	testkit.Is(t, act("relative"), ErrTarget)
}

func TestStatsWantsVolume(t *testing.T) {
	m := newMounter(t)
	wantVolume(t, func(target string) error {
		_, err := m.Stats(target)
		return err
	})
}

func TestResize(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := newTarget(t)
		mustMount(t, m, target, Options{Size: 64 << 10, Inodes: 10, Mode: 0o750})
		write(t, target+"/kept", 50_000)
		before := mustInspect(t, m, target)
		testkit.Must(t, m.Resize(target, 1<<20, 20))
		after := mustInspect(t, m, target)
		for _, option := range []string{"size=1024k", "nr_inodes=20", "nosuid", "nodev", "noexec", "mode=750"} {
			if !after.Has(option) {
				t.Errorf("%s is missing: %v", option, after.Options)
			}
		}
		if !after.Ours || depth(t, target) != 1 || after.Has("noswap") != before.Has("noswap") {
			t.Errorf("was %+v, is %+v", before, after)
		}
		testkit.Equal(t, "the size of the contents", testkit.Value(os.Stat(target+"/kept"))(t).Size(), 50_000)
		if err := m.Resize(target, 52<<10, 2); err != nil {
			t.Errorf("shrinking to what is used: %v", err)
		}
	})
}

func TestResizeRepeatsNoSwap(t *testing.T) {
	limits := []parameter{{"size", "4096"}, {"nr_inodes", "5"}}
	for _, test := range []struct {
		options []string
		want    []parameter
	}{
		{[]string{"rw", "size=8k"}, limits},
		{[]string{"rw", "noswap", "size=8k"}, append(limits, parameter{key: "noswap"})},
	} {
		if got := resizeParameters(Info{Options: test.options}, 4096, 5); !slices.Equal(got, test.want) {
			t.Errorf("%v: got %v, want %v", test.options, got, test.want)
		}
	}
}

func TestResizeBelowUse(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := newTarget(t)
		mustMount(t, m, target, Options{Size: 64 << 10, Inodes: 10})
		write(t, target+"/one", 50_000)
		write(t, target+"/two", 1)
		before := testkit.Value(m.Stats(target))(t)
		for _, limit := range [][2]int64{{16 << 10, 10}, {64 << 10, 2}} {
			err := m.Resize(target, limit[0], limit[1])
			if !errors.Is(err, ErrTooSmall) || !errors.Is(err, unix.EINVAL) {
				t.Errorf("%v: got %v, want ErrTooSmall", limit, err)
			}
		}
		testkit.Equal(t, "the file system", testkit.Value(m.Stats(target))(t), before)
	})
}

func TestResizeKeepsReadOnly(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := newTarget(t)
		mustMount(t, m, target, small())
		mountBy(t, "", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
		testkit.Must(t, m.Resize(target, 2<<20, 64))
		if info := mustInspect(t, m, target); !info.ReadOnly || !info.Has("size=2048k") {
			t.Errorf("found %+v", info)
		}
	})
}

func TestResizeWantsVolume(t *testing.T) {
	m := newMounter(t)
	wantVolume(t, func(target string) error { return m.Resize(target, 1<<20, 64) })
	var option *OptionError
	if err := m.Resize("/x", 1, 0); !errors.As(err, &option) || option.Field != "Inodes" {
		t.Errorf("no inodes: %v", err)
	}
	if err := m.Resize("/x", 0, 1); !errors.As(err, &option) || option.Field != "Size" {
		t.Errorf("no size: %v", err)
	}
}
