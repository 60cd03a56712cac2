package tmpfs

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// The cached list equals a fresh read, after every kind of change and with another reader polling
// as well; and it stays cached while nothing changes.
func TestMountListIsCurrent(t *testing.T) {
	m := newMounter(t)
	target := newTarget(t)
	var list, other mountList
	check := func(after string) {
		t.Helper()
		if _, err := other.current(); err != nil {
			t.Fatal(err)
		}
		got, err := list.current()
		testkit.Must(t, err)
		want, err := os.ReadFile(mountinfoPath)
		testkit.Must(t, err)
		if got, want := ownLines(got), ownLines(want); got != want {
			t.Errorf("after %s: got\n%s\nwant\n%s", after, got, want)
		}
	}
	check("opening")
	for range 20 {
		mustMount(t, m, target, small())
		check("a mount")
		mountBy(t, "", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
		check("a remount")
		testkit.Must(t, m.Unmount(target))
		check("an unmount")
	}
}

// ownLines leaves out the mounts of other processes, which change at any time.
func ownLines(list []byte) string {
	var own strings.Builder
	for line := range strings.Lines(string(list)) {
		if strings.Contains(line, area()) {
			own.WriteString(line)
		}
	}
	return own.String()
}

func TestMountListIsKept(t *testing.T) {
	var list mountList
	first, err := list.current()
	testkit.Must(t, err)
	// Mounts of other processes may come in between, but not every time.
	for range 100 {
		again, err := list.current()
		testkit.Must(t, err)
		if &again[0] == &first[0] {
			list.forget()
			fresh, err := list.current()
			if err != nil || &fresh[0] == &again[0] {
				t.Errorf("not read again after forget: %v", err)
			}
			return
		}
		first = again
	}
	t.Error("read anew every time")
}
