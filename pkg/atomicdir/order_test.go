package atomicdir

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// steps records what a Write does.
func steps(t *testing.T, d *Dir, files ...File) []string {
	t.Helper()
	var steps []string
	d.hook = func(op, name string) error {
		steps = append(steps, op+" "+name)
		return nil
	}
	defer func() { d.hook = nil }()
	mustWrite(t, d, Options{Now: fixedTime}, files...)
	return steps
}

// On a disk everything is synced before the swap, and the swap after it.
func TestSyncOrder(t *testing.T) {
	path := newVolume(t)
	d := open(t, path)
	d.durable = true
	got := steps(t, d, file("a", "1"), file("d/b", "1"))
	swap := slices.Index(got, "rename ..data")
	if swap < 0 {
		t.Fatalf("no swap in %q", got)
	}
	payload := readlink(t, path, "..data")
	for _, name := range []string{"a", "b", "d", payload, path} {
		if i := slices.Index(got, "fsync "+name); i < 0 || i > swap {
			t.Errorf("%q is not synced before the swap: %q", name, got)
		}
	}
	if got[len(got)-1] != "fsync "+path {
		t.Errorf("the volume directory is not synced at the end: %q", got)
	}
	if got := steps(t, d, file("a", "1"), file("d/b", "1")); len(got) != 0 {
		t.Errorf("an unchanged Write does %q", got)
	}
}

func TestNoSyncInMemory(t *testing.T) {
	d := open(t, newTmpfs(t, "size=1m"))
	if got := steps(t, d, file("a", "1")); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "fsync") }) {
		t.Errorf("syncs on tmpfs: %q", got)
	}
}

// What takes a wanted name in the middle of a Write is not replaced, nor is
// what takes the name of a link that is about to go.
func TestWriteSparesLateForeigners(t *testing.T) {
	tests := []struct {
		name, step string
		plant      func(path string) error
	}{
		{"new", "rename new", func(p string) error { return os.WriteFile(p+"/new", []byte("x"), 0o600) }},
		{"gone", "unlink gone", func(p string) error {
			return errors.Join(os.Remove(p+"/gone"), os.MkdirAll(p+"/gone/x", 0o700))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := newVolume(t)
			d := open(t, path)
			mustWrite(t, d, Options{}, file("gone", "1"))
			d.hook = func(op, name string) error {
				if op+" "+name == tt.step {
					return tt.plant(path)
				}
				return nil
			}
			r, err := d.Write([]File{file("new", "2")}, Options{})
			if err == nil || !r.Changed {
				t.Errorf("Write = %+v, %v, want Changed and an error", r, err)
			}
			if mode := stat(t, path, tt.name).Mode; mode&unix.S_IFMT == unix.S_IFLNK {
				t.Error("the foreign entry was replaced")
			}
			if tt.name == "gone" {
				stat(t, path, "gone", "x")
			}
			d.hook = nil
			must(t, os.RemoveAll(path+"/"+tt.name))
			mustWrite(t, d, Options{}, file("new", "2"))
			checkExact(t, path, treeOf(file("new", "2")))
		})
	}
}

// A mount inside of a payload is neither read nor emptied.
func TestWriteStaysOnItsFileSystem(t *testing.T) {
	other := newTmpfs(t, "size=1m,mode=0755")
	must(t, os.WriteFile(other+"/b", []byte("1"), 0o644))
	path := newVolume(t)
	d := open(t, path)
	mustWrite(t, d, Options{}, file("d/b", "1"))
	mount := live(t, path) + "/d"
	must(t, unix.Mount(other, mount, "", unix.MS_BIND, ""))
	_, err := d.Write([]File{file("d/b", "1")}, Options{})
	if !errors.Is(err, unix.EXDEV) {
		t.Errorf("error = %v, want EXDEV", err)
	}
	must(t, unix.Unmount(mount, unix.MNT_DETACH))
	stat(t, other, "b")
	if r := mustWrite(t, d, Options{}, file("d/b", "1")); r.Changed {
		t.Error("changed")
	}
}
