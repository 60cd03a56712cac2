package atomicdir

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// crash is the value of the hook's panic, which ends a Write at once.
type crash struct{ step string }

// scenario is a Write that is interrupted at each of its steps.
type scenario struct {
	name     string
	old      []File // nil means a first Write
	next     []File
	damage   func(path string) error
	minSteps int  // system calls that change something; a hook that is not called proves nothing
	swapLast bool // on tmpfs nothing follows the swap, so no crash does
	onlyOld  bool // whatever fails is undone
}

const marker = "s3cret-marker"

func scenarios(t *testing.T) []scenario {
	old := []File{
		file("gone", marker+"1"), file("kept", marker+"1"), file("d/kept", marker+"1"), file("d/gone", marker+"1"),
		file("turns", marker+"1"), file("returns/file", marker+"1"), file("gonedir/a", marker+"1"),
	}
	next := []File{
		file("new", marker+"2"), file("kept", marker+"2"), file("d/kept", marker+"2"), file("d/e/new", marker+"2"),
		file("turns/dir", marker+"2"), file("returns", marker+"2"), file("newdir/a", marker+"2"),
	}
	more := append(slices.Clone(old), file("new", marker+"1"), file("newdir/a", marker+"1"))
	mode := slices.Clone(old)
	mode[1].Mode = 0o600
	owned := slices.Clone(old)
	owned[1].Mode, owned[1].Owner, owned[2].Owner = 0o400, owner(1000, 2000), owner(1001, -1)
	others := slices.Clone(owned)
	others[1].Owner, others[2].Owner = owner(1001, 2000), owner(-1, 2000)
	list := []scenario{
		{"first", nil, next, nil, 30, false, false},
		{"update", old, next, nil, 30, false, false},
		{"additions only", old, more, nil, 30, false, false},
		{"removals only", more, old, nil, 20, false, false},
		{"update to nothing", old, []File{}, nil, 8, false, false},
		{"mode only", old, mode, nil, 20, true, false},
		{"links only", old, old, func(p string) error {
			return errors.Join(os.Remove(p+"/gone"), os.Remove(p+"/kept"), os.Symlink("..data/d", p+"/kept"), os.Symlink("..data/x", p+"/x"))
		}, 7, false, false},
		{"after a crash", old, next, func(p string) error {
			return errors.Join(os.MkdirAll(p+"/..2020_01_01_01_01_01.1/d/e", 0o700), os.WriteFile(p+"/..2020_01_01_01_01_01.1/d/x", nil, 0o600),
				os.Symlink("x", p+"/..data_tmp"), os.Mkdir(p+"/..links_tmp", 0o700), os.Symlink("..data/new", p+"/..links_tmp/new"))
		}, 35, false, false},
	}
	if canChown(t) {
		list = append(list, scenario{"owner only", owned, others, nil, 20, true, false}, scenario{"owner given up", owned, old, nil, 20, true, false})
	}
	return list
}

// prepare makes a volume in its state before the interrupted Write. One directory serves all steps
// of a scenario.
func (s scenario) prepare(t *testing.T, path string) {
	t.Helper()
	for _, name := range list(t, path) {
		testkit.Must(t, os.RemoveAll(filepath.Join(path, name)))
	}
	if s.old != nil {
		d := open(t, path)
		mustWrite(t, d, Options{}, s.old...)
		testkit.Must(t, d.Close())
	}
	if s.damage != nil {
		testkit.Must(t, s.damage(path))
	}
}

// interrupted runs the Write with fail called at step k, and reports whether it got that far.
func (s scenario) interrupted(t *testing.T, path string, k int, fail func(step string) error) (changed bool, step string, err error) {
	t.Helper()
	d := open(t, path)
	calls := 0
	d.sys.hook = func(op, name string) error {
		if calls++; calls-1 != k {
			return nil
		}
		step = fmt.Sprintf("step %d, %s %s", k, op, name)
		return fail(step)
	}
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(crash); !ok {
				panic(p)
			}
		}
		testkit.Must(t, d.Close())
	}()
	changed, err = d.Write(s.next, Options{})
	return changed, step, err
}

// eachVolume runs the test on tmpfs and on a disk, where the syncs are steps.
func eachVolume(t *testing.T, test func(t *testing.T, path string, s scenario)) {
	for _, s := range scenarios(t) {
		t.Run("tmpfs/"+s.name, func(t *testing.T) { test(t, newVolume(t), s) })
		t.Run("disk/"+s.name, func(t *testing.T) { test(t, t.TempDir(), s) })
	}
}

func TestCrashAtEveryStep(t *testing.T) {
	eachVolume(t, func(t *testing.T, path string, s scenario) {
		seen := map[string]int{}
		for k := 0; ; k++ {
			s.prepare(t, path)
			_, step, _ := s.interrupted(t, path, k, func(step string) error { panic(crash{step}) })
			if step == "" {
				checkSteps(t, s, k, seen)
				return
			}
			which := checkReader(t, path, s, step)
			seen[which]++
			d := open(t, path)
			checkRepaired(t, path, d, s, which, step)
			mustWrite(t, d, Options{}, s.next...)
			if ok, err := d.Complete(); !ok || err != nil {
				t.Fatalf("%s: recovered volume is not complete: %v", step, err)
			}
			sweep(t, d)
			checkExact(t, path, treeOf(s.next...))
			testkit.Must(t, d.Close())
		}
	})
}

// checkRepaired checks that a volume which serves a payload counts as complete
// after the crash, and has every link of it after a Repair.
func checkRepaired(t *testing.T, path string, d *Dir, s scenario, which, step string) {
	t.Helper()
	served := s.old != nil || which == "next"
	if ok, err := d.Complete(); ok != served || err != nil {
		t.Fatalf("%s: Complete is %v (%v), and the reader sees the %s payload", step, ok, err, which)
	}
	if err := d.Repair(); err != nil {
		t.Fatalf("%s: repairing: %v", step, err)
	}
	if !served {
		return
	}
	want := treeOf(s.old...)
	if which == "next" {
		want = treeOf(s.next...)
	}
	for _, top := range want.tops() {
		if target := readlink(t, path, top); target != "..data/"+top {
			t.Fatalf("%s: after the repair link %q leads to %q", step, top, target)
		}
	}
	for _, name := range list(t, path) {
		if !strings.HasPrefix(name, "..") && !slices.Contains(want.tops(), name) {
			t.Fatalf("%s: after the repair %q is left", step, name)
		}
	}
}

// checkSteps checks that the test covered the steps that it is for.
func checkSteps(t *testing.T, s scenario, steps int, seen map[string]int) {
	t.Helper()
	if s.onlyOld {
		if seen["next"] > 0 {
			t.Errorf("%d errors left the next payload, which the Write says it did not make", seen["next"])
		}
		s.swapLast = true
	}
	if steps < s.minSteps {
		t.Errorf("only %d steps, want at least %d: the hook misses system calls", steps, s.minSteps)
	}
	if seen["old"] == 0 || (!s.swapLast && !sameFiles(s.old, s.next) && seen["next"] == 0) {
		t.Errorf("crashes left %v: one side of the swap was never met", seen)
	}
}

func sameFiles(a, b []File) bool { return a != nil && maps.Equal(treeOf(a...), treeOf(b...)) }

// checkReader checks what a reader of an interrupted volume sees, and returns which payload that
// is.
func checkReader(t *testing.T, path string, s scenario, step string) string {
	t.Helper()
	got, err := readLive(path)
	if err != nil {
		t.Fatalf("%s: reading: %v", step, err)
	}
	old, next := treeOf(s.old...), treeOf(s.next...)
	which := ""
	switch {
	case got == nil && s.old == nil, s.old != nil && maps.Equal(got, old):
		which = "old"
	case maps.Equal(got, next):
		which = "next"
	default:
		t.Fatalf("%s: reader sees %q, neither the old payload nor the next", step, got)
	}
	for file := range next {
		checkUserPath(t, path, file, got, old, step, s.damage != nil)
	}
	for file := range old {
		checkUserPath(t, path, file, got, old, step, s.damage != nil)
	}
	return which
}

// checkUserPath checks that a file which is in both payloads is readable, and is that of the live
// one, and that no link dangles except that of a file which is being removed.
func checkUserPath(t *testing.T, path, file string, got, old tree, step string, damaged bool) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path, file))
	body, inLive := got[file]
	_, inOld := old[file]
	switch {
	case err == nil && inLive && strings.HasSuffix(body, " "+string(b)):
	case err == nil && damaged: // a damaged link leads to another file
	case err == nil:
		t.Fatalf("%s: %s reads %q, the live payload has %q", step, file, b, body)
	case inLive && inOld && !damaged:
		t.Fatalf("%s: gap at %s: %v", step, file, err)
	}
	top, _, _ := strings.Cut(file, "/")
	_, linkErr := os.Lstat(filepath.Join(path, top))
	if _, statErr := os.Stat(filepath.Join(path, top)); linkErr == nil && statErr != nil && !slices.Contains(old.tops(), top) {
		t.Fatalf("%s: the link of the added %q dangles", step, top)
	}
}

// An error at any step leaves the old payload and no remains, or the new
// payload; the next Write does the rest.
func TestErrorAtEveryStep(t *testing.T) {
	eachVolume(t, func(t *testing.T, path string, s scenario) {
		seen := map[string]int{}
		s.onlyOld = s.old == nil
		for k := 0; ; k++ {
			s.prepare(t, path)
			changed, step, err := s.interrupted(t, path, k, func(string) error { return unix.EIO })
			if step == "" {
				checkSteps(t, s, k, seen)
				return
			}
			if !errors.Is(err, unix.EIO) || strings.Contains(err.Error(), marker) || !strings.Contains(err.Error(), path) {
				t.Fatalf("%s: error = %v", step, err)
			}
			which := checkReader(t, path, s, step)
			if want := which == "next" && !sameFiles(s.old, s.next); changed != want {
				t.Fatalf("%s: changed is %v while the reader sees the %s payload", step, changed, which)
			}
			if which == "old" && s.damage == nil {
				checkNoRemains(t, path, step, s.old == nil)
			}
			seen[which]++
			d := open(t, path)
			mustWrite(t, d, Options{}, s.next...)
			sweep(t, d)
			checkExact(t, path, treeOf(s.next...))
			testkit.Must(t, d.Close())
		}
	})
}

// An entry that takes the name of a link during a first Write is not replaced, and not removed when
// the rest is undone.
func TestNameTakenDuringFirstWrite(t *testing.T) {
	path := newVolume(t)
	d := open(t, path)
	d.sys.hook = func(op, name string) error {
		if op == "symlink" && name == "b" {
			testkit.Must(t, os.WriteFile(filepath.Join(path, "b"), []byte("foreign"), 0o600))
		}
		return nil
	}
	if _, err := d.Write([]File{file("a", "1"), file("b", "1")}, Options{}); !errors.Is(err, unix.EEXIST) {
		t.Errorf("error = %v", err)
	}
	testkit.Equal(t, "what is left", list(t, path), []string{"b"})
}

func checkNoRemains(t *testing.T, path, step string, first bool) {
	t.Helper()
	if names := list(t, path); first && len(names) > 0 {
		t.Fatalf("%s: %q is left of a first Write", step, names)
	}
	payloads := 0
	for _, name := range list(t, path) {
		if name == "..data_tmp" || name == "..links_tmp" {
			t.Fatalf("%s: %s is left", step, name)
		}
		if isPayloadName(name) {
			payloads++
		}
	}
	if _, err := os.Lstat(filepath.Join(path, "..data")); payloads > 1 || (payloads == 1 && err != nil) {
		t.Fatalf("%s: an unfinished payload is left: %q", step, list(t, path))
	}
}

// Until it is complete, a payload is closed to everybody but its owner.
func TestUnfinishedPayloadIsClosed(t *testing.T) {
	path := newVolume(t)
	d := open(t, path)
	defer unix.Umask(unix.Umask(0))
	checked := 0
	d.sys.hook = func(op, name string) error {
		if op != "write" {
			return nil
		}
		checked++
		for _, entry := range list(t, path) {
			if st := stat(t, path, entry); isPayloadName(entry) && st.Mode&0o077 != 0 {
				t.Errorf("mode of the unfinished payload is %o", st.Mode)
			}
		}
		return nil
	}
	mustWrite(t, d, Options{}, file("a", "1"), file("d/b", "1"))
	testkit.Equal(t, "files that were checked", checked, 2)
}

// A comparison wipes its buffer.
func TestComparerIsWiped(t *testing.T) {
	path := newVolume(t)
	testkit.Must(t, os.WriteFile(path+"/a", []byte(marker), 0o600))
	d := open(t, path)
	c := cursor{top: d.fd}
	cmp := comparer{cursor: &c}
	e := testkit.Value(statEntry(d.fd, "a"))(t)
	if !cmp.same(e, []byte(marker)) || !bytes.Contains(cmp.buf, []byte(marker)) {
		t.Fatal("the comparison did not read the file")
	}
	cmp.clear()
	if bytes.Contains(cmp.buf, []byte(marker)) {
		t.Error("the buffer keeps what was read")
	}
}

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
	testkit.Is(t, err, unix.EXDEV)
	testkit.Must(t, unix.Unmount(mount, unix.MNT_DETACH))
	stat(t, other, "b")
	if mustWrite(t, d, Options{}, file("d/b", "1")) {
		t.Error("changed")
	}
}
