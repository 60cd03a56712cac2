package tmpfs

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestOpen(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := newTarget(t)
		if _, err := m.Open(target); !errors.Is(err, ErrNotMounted) {
			t.Errorf("no mount: %v", err)
		}
		if _, err := m.Open("/proc"); !errors.Is(err, ErrForeign) {
			t.Errorf("no tmpfs: %v", err)
		}
		mustMount(t, m, target, small())
		mkdir(t, target+"/below")
		part := newTarget(t)
		mountBy(t, target+"/below", part, "", unix.MS_BIND, "")
		if _, err := m.Open(part); !errors.Is(err, ErrForeign) {
			t.Errorf("a part of a tmpfs: %v", err)
		}
		testkit.Must(t, unix.Unmount(part, 0))
		f, err := m.Open(target)
		testkit.Must(t, err)
		defer func() { _ = f.Close() }()
		if f.Name() != target {
			t.Errorf("the file is named %q", f.Name())
		}
		// A write after the unmount does not reach the directory below.
		testkit.Must(t, unix.Unmount(target, unix.MNT_DETACH))
		testkit.Must(t, unix.Mkdirat(int(f.Fd()), "late", 0o700))
		if entries, err := os.ReadDir(target); err != nil || len(entries) > 0 {
			t.Errorf("the disk holds %v, %v", entries, err)
		}
	})
}
