package atomicdir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// newTmpfs mounts a tmpfs with these options, and skips the test where that is
// not allowed.
func newTmpfs(t testing.TB, options string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		if os.Geteuid() != 0 {
			t.Skipf("mounting a tmpfs needs root: %v", err)
		}
		t.Fatalf("mounting tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
	return dir
}

// newVolume returns an empty directory in a tmpfs, or on disk for users who may not mount one.
func newVolume(t testing.TB) string {
	t.Helper()
	if os.Geteuid() == 0 {
		return newTmpfs(t, "size=16m,mode=0755")
	}
	return t.TempDir()
}

// canChown reports whether this process may chown files: not as an ordinary user, nor in a user
// namespace with one id.
func canChown(t testing.TB) bool {
	t.Helper()
	return os.Geteuid() == 0 && os.Chown(t.TempDir(), 12, 3000) == nil
}

func open(t testing.TB, path string) *Dir {
	t.Helper()
	f := testkit.Value(os.Open(path))(t)
	d, err := Open(f)
	testkit.Must(t, errors.Join(err, f.Close()))
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("closing %s: %v", path, err)
		}
	})
	return d
}

func mustWrite(t testing.TB, d *Dir, o Options, files ...File) (changed bool) {
	t.Helper()
	changed, err := d.Write(files, o)
	if err != nil {
		t.Fatalf("Write: %v", err)
	}
	return changed
}

// owner is nil for an id that is negative.
func owner(uid, gid int64) (o Owner) {
	for to, id := range map[**uint32]int64{&o.UID: uid, &o.GID: gid} {
		if id >= 0 {
			*to = new(uint32(id))
		}
	}
	return o
}

func file(path, contents string) File { return File{Path: path, Contents: []byte(contents)} }

// tree is what a reader finds: for each file, its mode, owners and contents.
type tree map[string]string

func treeOf(files ...File) tree {
	t := tree{}
	for _, f := range files {
		mode := f.Mode
		if mode == 0 {
			mode = 0o644
		}
		ids := ids{uint32(os.Geteuid()), uint32(os.Getegid())}.of(f.Owner)
		t[f.Path] = fmt.Sprintf("%v %v %s", mode, ids, f.Contents)
	}
	return t
}

// readTree reads every file below an open directory.
func readTree(root *os.Root) (tree, error) {
	got := tree{}
	err := fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		f, err := root.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		b, err := io.ReadAll(f)
		st := info.Sys().(*syscall.Stat_t)
		got[path] = fmt.Sprintf("%v %v %s", info.Mode(), ids{st.Uid, st.Gid}, b)
		return err
	})
	return got, err
}

// readLive reads the payload behind ..data; it is nil if there is none.
func readLive(path string) (tree, error) {
	root, err := os.OpenRoot(filepath.Join(path, "..data"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return readTree(root)
}

// tops returns the first elements of the paths, sorted.
func (t tree) tops() []string {
	seen := map[string]bool{}
	for path := range t {
		top, _, _ := strings.Cut(path, "/")
		seen[top] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

// checkExact checks that the volume has this payload and its links and, except for the names in
// others, nothing else. Call it after sweep.
func checkExact(t testing.TB, path string, want tree, others ...string) {
	t.Helper()
	got, err := readLive(path)
	if err != nil {
		t.Fatalf("reading the live payload: %v", err)
	}
	if !maps.Equal(got, want) {
		t.Fatalf("payload = %q, want %q", got, want)
	}
	names := append([]string{"..data", readlink(t, path, "..data")}, want.tops()...)
	names = append(names, others...)
	slices.Sort(names)
	if have := list(t, path); !slices.Equal(have, names) {
		t.Fatalf("volume holds %q, want %q", have, names)
	}
	for _, top := range want.tops() {
		if target := readlink(t, path, top); target != "..data/"+top {
			t.Fatalf("link %q leads to %q", top, target)
		}
	}
}

// sweep removes what the next Write would remove first: the replaced payload and leftovers.
func sweep(t testing.TB, d *Dir) {
	t.Helper()
	s := testkit.Value(d.surveyFor(nil))(t)
	defer s.close()
	testkit.Must(t, d.removeTrees(s.leftovers))
}

func list(t testing.TB, elements ...string) []string {
	t.Helper()
	entries := testkit.Value(os.ReadDir(filepath.Join(elements...)))(t)
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

func readlink(t testing.TB, elements ...string) string {
	t.Helper()
	return testkit.Value(os.Readlink(filepath.Join(elements...)))(t)
}

// live returns the path of the payload directory itself.
func live(t testing.TB, path string) string {
	t.Helper()
	return filepath.Join(path, readlink(t, path, "..data"))
}

func stat(t testing.TB, elements ...string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	testkit.Must(t, unix.Lstat(filepath.Join(elements...), &st))
	return st
}

// stamps identifies every entry of the volume by inode and times of change.
func stamps(t testing.TB, path string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(path, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st := stat(t, p)
		got[p] = fmt.Sprint(st.Ino, st.Mtim, st.Ctim)
		return nil
	})
	testkit.Must(t, err)
	return got
}

func fixedTime() time.Time { return time.Date(2026, 1, 2, 15, 4, 5, 123456789, time.UTC) }

// Whatever entries are planted in a volume, a Write touches nothing outside of it, and the volume
// is right in the end.
func TestWriteAgainstPlantedEntries(t *testing.T) {
	const stale = "..2020_01_01_01_01_01.1"
	plants := map[string]func(path, outside string) error{
		"..data to outside": func(p, out string) error {
			return errors.Join(os.Remove(p+"/..data"), os.Symlink(out, p+"/..data"))
		},
		"..data to a relative path outside": func(p, out string) error {
			rel, err := filepath.Rel(p, out)
			return errors.Join(err, os.Remove(p+"/..data"), os.Symlink(rel, p+"/..data"))
		},
		"..data to itself": func(p, _ string) error {
			return errors.Join(os.Remove(p+"/..data"), os.Symlink("..data", p+"/..data"))
		},
		"..data to a payload name that is a symlink": func(p, out string) error {
			return errors.Join(os.Remove(p+"/..data"), os.Symlink(out, p+"/"+stale), os.Symlink(stale, p+"/..data"))
		},
		"..data to a payload name that is a file": func(p, _ string) error {
			return errors.Join(os.Remove(p+"/..data"), os.WriteFile(p+"/"+stale, nil, 0o600), os.Symlink(stale, p+"/..data"))
		},
		"live payload replaced by a symlink": func(p, out string) error {
			name, err := os.Readlink(p + "/..data")
			return errors.Join(err, os.RemoveAll(p+"/"+name), os.Symlink(out, p+"/"+name))
		},
		"next payload name": func(p, out string) error {
			return os.Symlink(out, p+"/"+payloadName(fixedTime(), 0))
		},
		"stale payload that is a symlink": func(p, out string) error { return os.Symlink(out, p+"/"+stale) },
		"stale payload with symlinks inside": func(p, out string) error {
			return errors.Join(os.MkdirAll(p+"/"+stale+"/d", 0o755), os.Symlink(out, p+"/"+stale+"/d/x"), os.Symlink(out, p+"/"+stale+"/y"))
		},
		"user link to outside": func(p, out string) error {
			return errors.Join(os.Remove(p+"/a"), os.Symlink(out+"/a", p+"/a"))
		},
		"user link of a directory to outside": func(p, out string) error {
			return errors.Join(os.Remove(p+"/d"), os.Symlink(out, p+"/d"))
		},
		"directory in the payload": func(p, out string) error {
			return errors.Join(os.RemoveAll(p+"/..data/d"), os.Symlink(out, p+"/..data/d"))
		},
		"file in the payload": func(p, out string) error {
			return errors.Join(os.Remove(p+"/..data/a"), os.Symlink(out+"/a", p+"/..data/a"))
		},
		"..data_tmp as symlink": func(p, out string) error { return os.Symlink(out, p+"/..data_tmp") },
		"..data_tmp as file":    func(p, _ string) error { return os.WriteFile(p+"/..data_tmp", nil, 0o600) },
		"..data_tmp as directory": func(p, out string) error {
			return errors.Join(os.MkdirAll(p+"/..data_tmp/x/y", 0o755), os.Symlink(out, p+"/..data_tmp/x/z"))
		},
		"..links_tmp as symlink": func(p, out string) error { return os.Symlink(out, p+"/..links_tmp") },
		"..links_tmp as directory": func(p, out string) error {
			return errors.Join(os.Mkdir(p+"/..links_tmp", 0o755), os.Symlink(out, p+"/..links_tmp/a"))
		},
	}
	old := []File{file("a", "1"), file("d/b", "1")}
	// The outside has the same content as the wanted payload: a comparison that reads there would
	// find no change.
	for name, plant := range plants {
		for _, next := range [][]File{old, {file("a", "2"), file("d/b", "2"), file("new", "2")}, {file("new", "2")}} {
			t.Run(name, func(t *testing.T) {
				path, outside := newVolume(t), t.TempDir()
				outsideDir := open(t, outside)
				for _, f := range next {
					testkit.Must(t, os.MkdirAll(filepath.Dir(filepath.Join(outside, f.Path)), 0o755))
					testkit.Must(t, os.WriteFile(filepath.Join(outside, f.Path), f.Contents, 0o644))
				}
				testkit.Must(t, outsideDir.Close())
				before := stamps(t, outside)
				d := open(t, path)
				mustWrite(t, d, Options{}, old...)
				testkit.Must(t, plant(path, outside))
				mustWrite(t, d, Options{Now: fixedTime}, next...)
				sweep(t, d)
				checkExact(t, path, treeOf(next...), foreignLinks(t, path, treeOf(next...))...)
				testkit.Equal(t, "..data leads to another file system", stat(t, live(t, path)).Dev, stat(t, path).Dev)
				testkit.Equal(t, "something outside of the volume was changed", stamps(t, outside), before)
			})
		}
	}
}

// foreignLinks returns the planted links under names that the payload does not have, which Write
// must not remove.
func foreignLinks(t *testing.T, path string, payload tree) []string {
	var names []string
	for _, name := range []string{"a", "d"} {
		target, err := os.Readlink(filepath.Join(path, name))
		if err == nil && filepath.IsAbs(target) && !slices.Contains(payload.tops(), name) {
			names = append(names, name)
		}
	}
	return names
}
