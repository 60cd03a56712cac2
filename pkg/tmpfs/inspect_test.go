package tmpfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	mount "k8s.io/mount-utils"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestInspectWithoutMount(t *testing.T) {
	m := &Mounter{}
	dir := newDir(t)
	write(t, dir+"/file", 1)
	testkit.Must(t, os.Symlink(dir, dir+"/link"))
	tests := map[string]Info{
		"/missing":       {},
		"/missing/below": {},
		"/file":          {Exists: true},
		"/link":          {Exists: true},
		"/link/":         {Exists: true},
		"":               {Exists: true},
		"/":              {Exists: true},
	}
	for name, want := range tests {
		if got := mustInspect(t, m, dir+name); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, want %+v", name, got, want)
		}
	}
	if _, err := m.Inspect(dir + "/file/below"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
	if _, err := m.Inspect("relative"); !errors.Is(err, ErrTarget) {
		t.Errorf("relative: %v", err)
	}
}

func TestInspectOddNames(t *testing.T) {
	m := newMounter(t)
	for _, name := range []string{
		"a space", "a\nnewline", "a\ttab", `a\backslash`, `octal\040`, "no-break\u00a0space", "next\u0085line",
		"hash#", "quote\"comma,", " - ", "(deleted)", "x//deleted", "\xff\xfe", strings.Repeat("x", 255),
	} {
		t.Run(fmt.Sprintf("%.20q", name), func(t *testing.T) {
			target := filepath.Join(newDir(t), name)
			mkdir(t, target)
			mustMount(t, m, target, small())
			for way, table := range tables(t) {
				info, err := fillFrom(table, target)
				if err != nil || !info.Ours || depth(t, target) != 1 || !info.Has("size=1024k") || !info.Has("noexec") {
					t.Errorf("%s: %+v, %v", way, info, err)
				}
			}
			testkit.Must(t, m.Cleanup(target))
			if mustInspect(t, m, target).Exists {
				t.Error("still there")
			}
		})
	}
}

// On some nodes kubelet's root is a symbolic link to another disk.
func TestInspectBelowLink(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		dir := newDir(t)
		mkdir(t, dir+"/disk/pods/volume")
		testkit.Must(t, os.Symlink(dir+"/disk", dir+"/kubelet"))
		target := dir + "/kubelet/pods/volume"
		mustMount(t, m, target, small())
		if info := mustInspect(t, m, target); !info.Ours || depth(t, target) != 1 {
			t.Errorf("found %+v", info)
		}
		testkit.Must(t, m.Unmount(target))
		if mustInspect(t, m, dir+"/disk/pods/volume").Mounted {
			t.Error("still mounted")
		}
	})
}

func TestInspectStack(t *testing.T) {
	m := newMounter(t)
	target := newTarget(t)
	mountBy(t, "first", target, "tmpfs", 0, "size=4k")
	mountBy(t, "second", target, "ramfs", 0, "")
	mountBy(t, Source, target, "tmpfs", 0, "size=8k")
	for way, table := range tables(t) {
		info, err := fillFrom(table, target)
		if err != nil || depth(t, target) != 3 || !info.Ours || !info.Has("size=8k") {
			t.Errorf("%s: %+v, %v", way, info, err)
		}
	}
	below := target + "/below"
	mkdir(t, below)
	mountBy(t, "x", below, "tmpfs", 0, "size=4k")
	if info := mustInspect(t, m, below); info.Source != "x" || depth(t, below) != 1 {
		t.Errorf("a mount below the stack: %+v", info)
	}
}

// tables are the sources of knowledge about mounts that this kernel has.
func tables(t *testing.T) map[string]mountTable {
	t.Helper()
	all := map[string]mountTable{}
	if hasStatmount() {
		all["statmount"] = statmountTable{}
	}
	list, err := new(mountList).current()
	testkit.Must(t, err)
	all["mountinfo"] = list
	return all
}

func fillFrom(table mountTable, target string) (Info, error) {
	at := location{fd: unix.AT_FDCWD, path: target}
	n, err := at.listedNode()
	if _, ok := table.(statmountTable); ok {
		n, err = at.node()
	}
	if err != nil {
		return Info{}, err
	}
	info := Info{Exists: true}
	return info, info.fill(table, n.mount)
}

// Every mount of this machine looks the same in each table and to Kubernetes' own parser.
func TestInspectAgrees(t *testing.T) {
	m := newMounter(t)
	target := newTarget(t)
	mustMount(t, m, target, small())
	list, err := mount.ParseMountInfo(mountinfoPath)
	testkit.Must(t, err)
	compared := 0
	for _, want := range list {
		path := unescape(want.MountPoint)
		at := location{fd: unix.AT_FDCWD, path: path}
		n, err := at.listedNode()
		if err != nil || !n.mounted || n.mount != uint64(want.ID) {
			continue // hidden by another mount, or gone meanwhile
		}
		infos, errs := map[string]Info{}, []error{}
		for way, table := range tables(t) {
			infos[way], err = fillFrom(table, path)
			errs = append(errs, err)
		}
		// Other processes may mount and unmount during this test.
		if again, err := at.listedNode(); err != nil || again != n {
			continue
		}
		compared++
		if err := errors.Join(errs...); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		for way, info := range infos {
			if !reflect.DeepEqual(info, infos["mountinfo"]) {
				t.Errorf("%s: %s has\n%+v, mountinfo has\n%+v", path, way, info, infos["mountinfo"])
			}
			if info.FSType != want.FsType || info.Source != want.Source || info.Root != want.Root {
				t.Errorf("%s: got %+v, want %+v", path, info, want)
			}
		}
	}
	if compared < 2 {
		t.Errorf("compared %d mounts", compared)
	}
}

func TestInspectUnreadable(t *testing.T) {
	if os.Geteuid() != 0 || os.Getenv(inNamespace) != "" {
		t.Skip("needs a second user to become")
	}
	target := newTarget(t)
	testkit.Must(t, os.Chmod(filepath.Dir(target), 0o700))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	testkit.Must(t, unix.Setfsuid(65534))
	_, err := (&Mounter{}).Inspect(target)
	if e := unix.Setfsuid(0); e != nil {
		t.Fatal(e)
	}
	if !errors.Is(err, unix.EACCES) || !strings.Contains(err.Error(), fmt.Sprintf("%q", target)) {
		t.Errorf("got %v", err)
	}
}

func TestHas(t *testing.T) {
	i := Info{Options: []string{"rw", "size=4k"}}
	if !i.Has("size=4k") || i.Has("size") || i.Has("ro") {
		t.Error(slices.Clone(i.Options))
	}
}

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
