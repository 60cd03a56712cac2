package atomicdir

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// Write replaces neither an entry that takes a wanted name in the middle of a Write, nor one that
// takes the name of a link that it is about to remove.
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
			d.sys.hook = func(op, name string) error {
				if op+" "+name == tt.step {
					return tt.plant(path)
				}
				return nil
			}
			changed, err := d.Write([]File{file("new", "2")}, Options{})
			if err == nil || !changed {
				t.Errorf("Write = %v, %v, want true and an error", changed, err)
			}
			if mode := stat(t, path, tt.name).Mode; mode&unix.S_IFMT == unix.S_IFLNK {
				t.Error("the foreign entry was replaced")
			}
			if tt.name == "gone" {
				stat(t, path, "gone", "x")
			}
			d.sys.hook = nil
			testkit.Must(t, os.RemoveAll(path+"/"+tt.name))
			mustWrite(t, d, Options{}, file("new", "2"))
			checkExact(t, path, treeOf(file("new", "2")))
		})
	}
}

// A mount inside of a payload is neither read nor emptied.
func TestWriteStaysOnItsFileSystem(t *testing.T) {
	other := newTmpfs(t, "size=1m,mode=0755")
	testkit.Must(t, os.WriteFile(other+"/b", []byte("1"), 0o644))
	path := newVolume(t)
	d := open(t, path)
	mustWrite(t, d, Options{}, file("d/b", "1"))
	mount := live(t, path) + "/d"
	testkit.Must(t, unix.Mount(other, mount, "", unix.MS_BIND, ""))
	_, err := d.Write([]File{file("d/b", "1")}, Options{})
	if !errors.Is(err, unix.EXDEV) {
		t.Errorf("error = %v, want EXDEV", err)
	}
	testkit.Must(t, unix.Unmount(mount, unix.MNT_DETACH))
	stat(t, other, "b")
	if mustWrite(t, d, Options{}, file("d/b", "1")) {
		t.Error("changed")
	}
}
