package atomicdir

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestWriteLayout(t *testing.T) {
	path := newVolume(t)
	d := open(t, path)
	files := []File{
		{Path: "password", Contents: []byte("p")},
		{Path: "tls/key.pem", Mode: 0o400, Contents: []byte("k")},
		{Path: "tls/ca/root.pem", Contents: []byte("r")},
		{Path: "empty"},
	}
	if !mustWrite(t, d, Options{Now: fixedTime}, files...) {
		t.Error("not changed")
	}
	checkExact(t, path, treeOf(files...))
	testkit.Equal(t, "the payload's name", readlink(t, path, "..data"), "..2026_01_02_15_04_05.123456789")
	for _, dir := range []string{"", "tls", "tls/ca"} {
		testkit.Equal(t, "the mode of "+dir, stat(t, live(t, path), dir).Mode, unix.S_IFDIR|0o755)
	}
	testkit.Equal(t, "through the link", string(testkit.Value(os.ReadFile(filepath.Join(path, "tls/ca/root.pem")))(t)), "r")
}

func TestWriteSequence(t *testing.T) {
	steps := []struct {
		name  string
		files []File
		want  bool
	}{
		{"first", []File{file("a", "1"), file("b", "1"), file("d/x", "1")}, true},
		{"same again", []File{file("d/x", "1"), file("b", "1"), file("a", "1")}, false},
		{"contents", []File{file("a", "2"), file("b", "1"), file("d/x", "1")}, true},
		{"mode only", []File{file("a", "2"), {Path: "b", Mode: 0o600, Contents: []byte("1")}, file("d/x", "1")}, true},
		{"explicit default mode", []File{{Path: "a", Mode: 0o644, Contents: []byte("2")}, {Path: "b", Mode: 0o600, Contents: []byte("1")}, file("d/x", "1")}, false},
		{"longer and shorter", []File{file("a", "22"), {Path: "b", Mode: 0o600}, file("d/x", "1")}, true},
		{"add and remove", []File{file("a", "22"), file("c", "1"), file("d/y", "1")}, true},
		{"file becomes directory", []File{file("a/z", "22"), file("c", "1"), file("d/y", "1")}, true},
		{"directory becomes file", []File{file("a/z", "22"), file("c", "1"), file("d", "1")}, true},
		{"nothing", nil, true},
		{"nothing again", nil, false},
	}
	path := newVolume(t)
	d := open(t, path)
	for _, step := range steps {
		before := stamps(t, path)
		changed := mustWrite(t, d, Options{}, step.files...)
		testkit.Equal(t, step.name+": changed", changed, step.want)
		if !changed && !maps.Equal(stamps(t, path), before) {
			t.Errorf("%s: an unchanged Write touched the volume", step.name)
		}
		sweep(t, d)
		checkExact(t, path, treeOf(step.files...))
	}
}

func TestWriteFirstEmptyPayloadIsAChange(t *testing.T) {
	path := newVolume(t)
	d := open(t, path)
	if !mustWrite(t, d, Options{}) {
		t.Error("not changed")
	}
	checkExact(t, path, tree{})
}

// Files around the size of a comparison's chunk that differ only at the end.
func TestWriteComparesLargeFiles(t *testing.T) {
	path := newVolume(t)
	d := open(t, path)
	for _, size := range []int{chunk - 1, chunk, chunk + 1, 5 * chunk} {
		body := strings.Repeat("x", size)
		mustWrite(t, d, Options{}, file("a", body))
		if mustWrite(t, d, Options{}, file("a", body)) {
			t.Errorf("%d bytes: the same contents are a change", size)
		}
		if !mustWrite(t, d, Options{}, file("a", body[1:]+"y")) {
			t.Errorf("%d bytes: a change of the last byte is not seen", size)
		}
	}
}

// The replaced payload stays whole for its readers until the next Write, changed or not,
// removes it.
func TestWriteKeepsTheReplacedPayload(t *testing.T) {
	path := newVolume(t)
	d := open(t, path)
	old := []File{file("a", "1"), file("d/b", "1")}
	mustWrite(t, d, Options{}, old...)
	reader := testkit.Value(os.OpenRoot(filepath.Join(path, "..data")))(t)
	defer reader.Close()
	mustWrite(t, d, Options{}, file("a", "2"))
	got, err := readTree(reader)
	if err != nil || !maps.Equal(got, treeOf(old...)) {
		t.Fatalf("reader of the old payload sees %q, %v", got, err)
	}
	if mustWrite(t, d, Options{}, file("a", "2")) {
		t.Error("changed")
	}
	checkExact(t, path, treeOf(file("a", "2")))
}

func TestWriteGroup(t *testing.T) {
	if !canChown(t) {
		t.Skip("changing groups needs root")
	}
	path := newVolume(t)
	d := open(t, path)
	testkit.Must(t, os.Chmod(path, 0o2750|fs.ModeSetgid)) // new entries inherit the group
	testkit.Must(t, os.Chown(path, 0, 77))
	root := stat(t, path)
	files := []File{{Path: "a", Mode: 0o400}, {Path: "d/b", Mode: 0o644}}
	check := func(gid uint32, aMode uint32) {
		t.Helper()
		for name, mode := range map[string]uint32{
			"": unix.S_IFDIR | 0o755, "d": unix.S_IFDIR | 0o755,
			"a": unix.S_IFREG | aMode, "d/b": unix.S_IFREG | 0o644,
		} {
			if st := stat(t, live(t, path), name); st.Mode != mode || st.Gid != gid || st.Uid != 0 {
				t.Errorf("%s: mode %o, owner %d:%d, want mode %o, group %d", name, st.Mode, st.Uid, st.Gid, mode, gid)
			}
		}
	}
	group := func(gid uint32) Options { return Options{GID: &gid} }
	for _, step := range []struct {
		o       Options
		changed bool
		gid     uint32
		aMode   uint32
	}{
		{Options{}, true, 0, 0o400},
		{Options{}, false, 0, 0o400},
		{group(2000), true, 2000, 0o440},
		{group(2000), false, 2000, 0o440},
		{group(3000), true, 3000, 0o440},
		{group(0), true, 0, 0o440},
		{Options{}, true, 0, 0o400},
	} {
		if changed := mustWrite(t, d, step.o, files...); changed != step.changed {
			t.Errorf("group %d: changed is %v", step.gid, changed)
		}
		check(step.gid, step.aMode)
	}
	if st := stat(t, path); st.Mode != root.Mode || st.Gid != root.Gid {
		t.Errorf("the volume directory itself was changed: %o group %d", st.Mode, st.Gid)
	}
}

// A file's owner is applied like its mode. The volume group gets the file only without a group of
// its own, and may read it only without an owner.
func TestWriteOwner(t *testing.T) {
	if !canChown(t) {
		t.Skip("changing owners needs root")
	}
	path := newVolume(t)
	d := open(t, path)
	group := new(uint32(3000))
	of := func(o Owner) []File {
		return []File{{Path: "d/key", Mode: 0o400, Owner: o}, {Path: "free", Mode: 0o400}}
	}
	for _, step := range []struct {
		owner   Owner
		group   *uint32
		changed bool
		want    string // of d/key, with its mode
		free    string
	}{
		{owner(1000, 1001), nil, true, "{1000 1001} 400", "{0 0} 400"},
		{owner(1000, 1001), nil, false, "{1000 1001} 400", "{0 0} 400"},
		{owner(1000, 1002), nil, true, "{1000 1002} 400", "{0 0} 400"},
		{owner(1003, 1002), nil, true, "{1003 1002} 400", "{0 0} 400"},
		{owner(1003, 1002), group, true, "{1003 1002} 400", "{0 3000} 440"},
		{owner(1003, -1), group, true, "{1003 3000} 400", "{0 3000} 440"},
		{owner(-1, 1002), group, true, "{0 1002} 400", "{0 3000} 440"},
		{owner(-1, 3000), group, true, "{0 3000} 400", "{0 3000} 440"},
		{owner(-1, 3000), group, false, "{0 3000} 400", "{0 3000} 440"},
		{Owner{}, group, true, "{0 3000} 440", "{0 3000} 440"},
		{owner(0, 0), nil, true, "{0 0} 400", "{0 0} 400"},
		{Owner{}, nil, false, "{0 0} 400", "{0 0} 400"},
		{owner(MaxID, MaxID), nil, true, "{4294967294 4294967294} 400", "{0 0} 400"},
	} {
		changed := mustWrite(t, d, Options{GID: step.group}, of(step.owner)...)
		got := map[string]string{}
		for _, name := range []string{"d/key", "free"} {
			st := stat(t, live(t, path), name)
			got[name] = fmt.Sprintf("%v %o", ids{st.Uid, st.Gid}, st.Mode&0o7777)
		}
		if changed != step.changed || got["d/key"] != step.want || got["free"] != step.free {
			t.Errorf("owner %s, group %v: changed is %v, files are %q", step.owner, step.group, changed, got)
		}
		for _, name := range []string{"", "d"} { // the owner of a file can reach it, and change nothing
			if st := stat(t, live(t, path), name); st.Mode != unix.S_IFDIR|0o755 || st.Uid != 0 {
				t.Errorf("directory %q: mode %o, user %d", name, st.Mode, st.Uid)
			}
		}
	}
	testkit.Error(d.Write(of(owner(1<<32-1, -1)), Options{}))(t, `"d/key"`) // the id that is none
}

// The driver's container has CHOWN and DAC_OVERRIDE (the chart's linux.securityContext), and nothing
// more that would help here.
func TestWriteOwnerWithTheChartsCapabilities(t *testing.T) {
	if !canChown(t) {
		t.Skip("changing owners needs root")
	}
	path := newVolume(t)
	d := open(t, path)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread is not what it was
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		has := [2]unix.CapUserData{{Effective: 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE}}
		has[0].Permitted = has[0].Effective
		err := unix.Capset(&head, &has[0])
		for uid := int64(1000); uid < 1002 && err == nil; uid++ {
			_, err = d.Write([]File{{Path: "a", Mode: 0o400, Owner: owner(uid, 2000)}}, Options{})
		}
		done <- err
	}()
	testkit.Must(t, <-done)
	st := stat(t, live(t, path), "a")
	if st.Uid != 1001 || st.Gid != 2000 || st.Mode&0o7777 != 0o400 {
		t.Errorf("the file is %o %d:%d", st.Mode, st.Uid, st.Gid)
	}
}

// Write repairs changes that another process made in the live payload.
func TestWriteRepairsThePayload(t *testing.T) {
	damages := map[string]func(live string) error{
		"contents":       func(live string) error { return os.WriteFile(live+"/a", []byte("X"), 0o644) },
		"file mode":      func(live string) error { return os.Chmod(live+"/a", 0o666) },
		"directory mode": func(live string) error { return os.Chmod(live+"/d", 0o777) },
		"payload mode":   func(live string) error { return os.Chmod(live, 0o700) },
		"extra file":     func(live string) error { return os.WriteFile(live+"/extra", nil, 0o644) },
		"extra dir":      func(live string) error { return os.Mkdir(live+"/extra", 0o755) },
		"missing file":   func(live string) error { return os.Remove(live + "/a") },
		"missing dir":    func(live string) error { return os.RemoveAll(live + "/d") },
		"missing all":    func(live string) error { return os.RemoveAll(live) },
		"fifo":           func(live string) error { return errors.Join(os.Remove(live+"/a"), unix.Mkfifo(live+"/a", 0o644)) },
		"symlink": func(live string) error {
			return errors.Join(os.Remove(live+"/a"), os.Symlink("/etc/passwd", live+"/a"))
		},
		"..data removed": func(live string) error { return os.Remove(filepath.Dir(live) + "/..data") },
	}
	if canChown(t) {
		damages["owner"] = func(live string) error { return os.Chown(live+"/a", 12, -1) }
		damages["group"] = func(live string) error { return os.Chown(live+"/d", -1, 12) }
	}
	files := []File{file("a", "1"), file("d/b", "1")}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			path := newVolume(t)
			d := open(t, path)
			mustWrite(t, d, Options{}, files...)
			testkit.Must(t, damage(live(t, path)))
			if !mustWrite(t, d, Options{}, files...) {
				t.Error("the damage was not seen")
			}
			sweep(t, d)
			checkExact(t, path, treeOf(files...))
		})
	}
}

// Write takes over a volume of another writer of the layout; the same files are no change.
func TestWriteTakesOverKubeletLayout(t *testing.T) {
	path := newVolume(t)
	const name = "..2024_05_06_07_08_09.987654321"
	testkit.Must(t, os.Mkdir(filepath.Join(path, name), 0o755))
	testkit.Must(t, os.Chmod(filepath.Join(path, name), 0o755))
	testkit.Must(t, os.WriteFile(filepath.Join(path, name, "a"), []byte("1"), 0o644))
	testkit.Must(t, os.Chmod(filepath.Join(path, name, "a"), 0o644))
	testkit.Must(t, os.Symlink(name, filepath.Join(path, "..data")))
	testkit.Must(t, os.Symlink("..data/a", filepath.Join(path, "a")))
	d := open(t, path)
	before := stamps(t, path)
	if mustWrite(t, d, Options{}, file("a", "1")) || !maps.Equal(stamps(t, path), before) {
		t.Error("the same files are a change")
	}
	mustWrite(t, d, Options{}, file("a", "2"))
	sweep(t, d)
	checkExact(t, path, treeOf(file("a", "2")))
}

func TestWriteIgnoresUmask(t *testing.T) {
	path := newVolume(t)
	d := open(t, path)
	defer unix.Umask(unix.Umask(0o077))
	files := []File{{Path: "a", Mode: 0o666}, {Path: "d/b", Mode: 0o777}}
	mustWrite(t, d, Options{}, files...)
	checkExact(t, path, treeOf(files...))
	testkit.Equal(t, "the directory's mode", stat(t, path, "..data", "d").Mode, unix.S_IFDIR|0o755)
}

func TestWriteRefusesInvalidFiles(t *testing.T) {
	path := newVolume(t)
	d := open(t, path)
	mustWrite(t, d, Options{}, file("a", "1"))
	before := stamps(t, path)
	for _, name := range []string{"", "/etc/x", "../x", "..data", "a/../../x", "a\x00b", strings.Repeat("n", 256)} {
		_, err := d.Write([]File{file("a", "s3cret"), file(name, "s3cret")}, Options{})
		pathErr, ok := errors.AsType[*PathError](err)
		if !ok || pathErr.Path != name || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: error = %v", name, err)
		}
	}
	testkit.Equal(t, "a refused Write touched the volume", stamps(t, path), before)
}

// The longest valid path can be written, compared and removed, although no system call accepts all
// of it.
func TestWriteDeepestPath(t *testing.T) {
	path := newVolume(t)
	d := open(t, path)
	for _, deep := range []string{strings.Repeat("a/", 15) + "bb", strings.Repeat(strings.Repeat("n", 255)+"/", 15) + strings.Repeat("n", 255)} {
		mustWrite(t, d, Options{}, file(deep, "1"), file("z", "1"))
		if mustWrite(t, d, Options{}, file(deep, "1"), file("z", "1")) {
			t.Error("the same files are a change")
		}
	}
	mustWrite(t, d, Options{}, file("z", "1"))
	sweep(t, d)
	checkExact(t, path, treeOf(file("z", "1")))
}

// Two payloads of one instant get two names.
func TestWriteInOneInstant(t *testing.T) {
	path := newVolume(t)
	d := open(t, path)
	for _, body := range []string{"1", "2", "3"} {
		mustWrite(t, d, Options{Now: fixedTime}, file("a", body))
		got, err := readLive(path)
		if err != nil || !maps.Equal(got, treeOf(file("a", body))) {
			t.Fatalf("payload = %q, %v", got, err)
		}
	}
}

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
	testkit.Lacks(t, err.Error(), marker)
	after := stamps(t, path)
	delete(before, path) // the volume directory itself
	delete(after, path)
	testkit.Equal(t, "the volume was touched", before, after)
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
	p := testkit.Value(newPlan([]File{file("a", "1")}, Options{}))(t)
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
