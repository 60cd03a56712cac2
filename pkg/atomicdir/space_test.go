package atomicdir

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestNoSpace(t *testing.T) {
	path := newTmpfs(t, "size=64k,mode=0755")
	d := open(t, path)
	old := []File{file("a", strings.Repeat("1", 10000)), file("b", "1")}
	mustWrite(t, d, Options{}, old...)
	before := stamps(t, path)
	secret := strings.Repeat(marker, 10000)
	_, err := d.Write([]File{file("a", "2"), file("b", secret), file("new", "2")}, Options{})
	if !errors.Is(err, ErrNoSpace) || !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("error = %v, want ErrNoSpace and ENOSPC", err)
	}
	space, ok := errors.AsType[*NoSpaceError](err)
	if !ok {
		t.Fatalf("error = %v, want a *NoSpaceError", err)
	}
	// 130000 bytes are 32 pages, and each small file is one; the old payload
	// holds 4 pages of 16.
	if space.NeedBytes != 34*4096 || space.FreeBytes != 12*4096 || space.Path != path {
		t.Errorf("error = %+v, want 139264 bytes needed and 49152 free", space)
	}
	testkit.Says(t, err, "139264 bytes needed", "49152 free", path)
	if strings.Contains(err.Error(), marker) {
		t.Error("the error holds contents")
	}
	after := stamps(t, path)
	delete(before, path) // the volume directory itself
	delete(after, path)
	if !maps.Equal(before, after) {
		t.Errorf("the volume was touched: %v, before %v", after, before)
	}
	checkExact(t, path, treeOf(old...))
	mustWrite(t, d, Options{}, file("a", "2"))
}

// At every limit, a Write does all or nothing, including links, which take inodes and, if they are
// long, pages.
func TestNoSpaceAtEveryLimit(t *testing.T) {
	newTmpfs(t, "size=64k") // skips here rather than in each subtest
	name := strings.Repeat("n", 200)
	old := []File{file("a", "1"), file("d/b", "1")}
	next := []File{file("a", "2"), file("d/b", "2"), file("d/e/c", "2"), file(name+"1", "2"), file(name+"2", "2")}
	for limit, numbers := range map[string][2]int{"nr_inodes=%d": {9, 30}, "size=%d": {2, 14}} {
		failed, passed := 0, 0
		for n := numbers[0]; n < numbers[1]; n++ {
			value := n
			if strings.HasPrefix(limit, "size") {
				value *= 4096
			}
			options := fmt.Sprintf(limit, value)
			t.Run(options, func(t *testing.T) {
				path := newTmpfs(t, options+",mode=0755")
				d := open(t, path)
				mustWrite(t, d, Options{}, old...)
				changed, err := d.Write(next, Options{})
				if err == nil {
					passed++
					sweep(t, d)
					checkExact(t, path, treeOf(next...))
					return
				}
				failed++
				if !errors.Is(err, ErrNoSpace) || changed {
					t.Errorf("error = %v, changed is %v", err, changed)
				}
				checkExact(t, path, treeOf(old...))
			})
		}
		if failed == 0 || passed == 0 {
			t.Errorf("%s: %d failed and %d passed: the limit was not met", limit, failed, passed)
		}
	}
}

func TestExplainSpace(t *testing.T) {
	d := open(t, newVolume(t))
	p, err := newPlan([]File{file("a", "1")}, Options{})
	testkit.Must(t, err)
	for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT} {
		err := d.explainSpace(fmt.Errorf("writing: %w", errno), p, 1)
		if !errors.Is(err, ErrNoSpace) || !errors.Is(err, errno) {
			t.Errorf("%v gives %v", errno, err)
		}
	}
	if err := d.explainSpace(unix.EIO, p, 1); err != unix.EIO {
		t.Errorf("EIO gives %v", err)
	}
}
