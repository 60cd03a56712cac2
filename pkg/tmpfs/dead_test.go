package tmpfs

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// deadTarget is a FUSE mount whose server is gone.
func deadTarget(t *testing.T) string {
	t.Helper()
	target := newTarget(t)
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	err = unix.Mount("dead", target, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
	_ = unix.Close(fd)
	if err != nil {
		t.Skipf("no FUSE here: %v", err)
	}
	return target
}

func TestDeadMount(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := deadTarget(t)
		_, err := m.Inspect(target)
		if !errors.Is(err, unix.ENOTCONN) || !strings.Contains(err.Error(), "dead mount") {
			t.Errorf("Inspect: %v", err)
		}
		for name, act := range map[string]func(string) error{
			"Mount":   func(s string) error { return m.Mount(s, small()) },
			"Unmount": m.Unmount,
			"Cleanup": m.Cleanup,
			"Stats":   func(s string) error { _, err := m.Stats(s); return err },
		} {
			if err := act(target); !errors.Is(err, unix.ENOTCONN) {
				t.Errorf("%s: %v", name, err)
			}
		}
		testkit.Must(t, m.CleanupAny(target))
		if mustInspect(t, m, target).Exists {
			t.Error("still there")
		}
	})
}
