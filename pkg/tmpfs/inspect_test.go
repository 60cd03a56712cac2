package tmpfs

import (
	"encoding/binary"
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
		testkit.Equal(t, fmt.Sprintf("%q", name), mustInspect(t, m, dir+name), want)
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
			wantGone(t, m, target)
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
	list := testkit.Value(new(mountList).current())(t)
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
	list := testkit.Value(mount.ParseMountInfo(mountinfoPath))(t)
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
			testkit.Equal(t, fmt.Sprintf("%s: %s, and mountinfo", path, way), info, infos["mountinfo"])
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
		f := testkit.Value(m.Open(target))(t)
		defer func() { _ = f.Close() }()
		testkit.Equal(t, "the name of the file", f.Name(), target)
		// A write after the unmount does not reach the directory below.
		testkit.Must(t, unix.Unmount(target, unix.MNT_DETACH))
		testkit.Must(t, unix.Mkdirat(int(f.Fd()), "late", 0o700))
		testkit.Empty(t, "the disk holds", testkit.Value(os.ReadDir(target))(t))
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
		wantGone(t, m, target)
	})
}

func TestUnescape(t *testing.T) {
	tests := map[string]string{
		``: ``, `plain`: `plain`, `a\040b`: "a b", `\011\012\134\043`: "\t\n\\#", `\`: `\`, `\04`: `\04`,
		`\999`: `\999`, `\777`: `\777`, `\+12`: `\+12`, `\134040`: `\040`, `\` + `\040`: `\ `, `\377`: "\xff",
	}
	for in, want := range tests {
		testkit.Equal(t, in, unescape(in), want)
	}
}

func TestMountinfoLookup(t *testing.T) {
	table := mountinfo(strings.Join([]string{
		`1 0 0:1 / / rw - ext4 /dev/root rw`,
		`21 1 0:2 /sub\040dir /a\012b ro,nosuid shared:7 master:3 - tmpfs may\040fly ro,size=4k,context="u:r:t:s0:c1,c2"`,
		`211 21 0:3 / /x rw - tmpfs  rw`, // no source at all
		`30 1 garbage`,
		`32 1 0:2 / /x - tmpfs x rw`,
		`33 1 0:2 / /x rw - tmpfs x`,
		`40 1 0:5 / /last rw - fuse.x src rw`,
	}, "\n"))
	tests := []struct {
		id   uint64
		want record
	}{
		{1, record{"/", "ext4", "/dev/root", []string{"rw"}, []string{"rw"}}},
		{21, record{"/sub dir", "tmpfs", "may fly", []string{"ro", "nosuid"}, []string{"ro", "size=4k", `context="u:r:t:s0:c1,c2"`}}},
		{211, record{"/", "tmpfs", "", []string{"rw"}, []string{"rw"}}},
		{40, record{"/", "fuse.x", "src", []string{"rw"}, []string{"rw"}}},
	}
	for _, test := range tests {
		if got, err := table.lookup(test.id); err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%d: got %+v, %v; want %+v", test.id, got, err, test.want)
		}
	}
	for _, id := range []uint64{30, 32, 33} {
		if _, err := table.lookup(id); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("mount %d", id)) {
			t.Errorf("%d: %v", id, err)
		}
	}
	for _, id := range []uint64{0, 2, 4, 11} {
		if _, err := table.lookup(id); !errors.Is(err, errVanished) {
			t.Errorf("%d: %v", id, err)
		}
	}
}

// A kernel before 6.13 answers without the source; that must send the question
// to mountinfo rather than declare the mount foreign.
func TestParseStatmount(t *testing.T) {
	order := binary.NativeEndian
	answer := make([]byte, statmountSize+64)
	order.PutUint64(answer[offsetMask:], statmountWanted|statmountOpts)
	order.PutUint64(answer[offsetAttr:], unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOATIME)
	order.PutUint32(answer[offsetSBFlags:], unix.MS_RDONLY)
	order.PutUint32(answer[offsetType:], 1)
	order.PutUint32(answer[offsetSource:], 10)
	order.PutUint32(answer[offsetOpts:], 20)
	order.PutUint32(answer[offsetRoot:], 1<<31) // out of bounds
	copy(answer[statmountSize+1:], "tmpfs\x00")
	copy(answer[statmountSize+10:], "mayfly\x00")
	copy(answer[statmountSize+20:], "size=4k,noswap\x00")
	got, err := parseStatmount(answer)
	want := record{"", "tmpfs", "mayfly", []string{"rw", "nosuid", "noatime"}, []string{"ro", "size=4k", "noswap"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	order.PutUint64(answer[offsetMask:], statmountWanted&^uint64(statmountSource))
	if _, err := parseStatmount(answer); err == nil {
		t.Error("an answer without the source was accepted")
	}
	if _, err := parseStatmount(answer[:100]); err == nil {
		t.Error("a short answer was accepted")
	}
}

func FuzzUnescape(f *testing.F) {
	for _, s := range []string{"", "a b", "\\", "a\nb\t#", `\040`} {
		f.Add(s)
	}
	escape := func(s string) string {
		var b strings.Builder
		for _, c := range []byte(s) {
			if strings.IndexByte(" \t\n\\#", c) >= 0 {
				fmt.Fprintf(&b, `\%03o`, c)
			} else {
				b.WriteByte(c)
			}
		}
		return b.String()
	}
	f.Fuzz(func(t *testing.T, s string) {
		testkit.Equal(t, "what came back", unescape(escape(s)), s)
		if got := unescape(s); len(got) > len(s) {
			t.Errorf("%q grew to %q", s, got)
		}
	})
}

func FuzzMountinfo(f *testing.F) {
	f.Add([]byte("5 4 0:1 / /x rw - tmpfs mayfly rw,size=4k\n4 3 0:1 / /x rw - t s rw\n"), uint64(5))
	f.Add([]byte("5 4 0:1 / /x rw - t s rw\n4 5 0:1 / /x rw - t s rw\n"), uint64(5))
	f.Add([]byte(`5 4 0:1 / /x rw shared:1 - tmpfs may\040fly rw,context="a,b"`), uint64(5))
	f.Fuzz(func(t *testing.T, text []byte, id uint64) {
		r, err := mountinfo(text).lookup(id)
		if err != nil {
			return
		}
		var info Info
		if err := info.fill(mountinfo(text), id); err != nil || !info.Mounted {
			t.Errorf("filled %+v, %v", info, err)
		}
		for _, option := range append(r.mountOptions, r.fsOpts...) {
			if option == "" || strings.Contains(option, ",") && !strings.ContainsAny(option, `"`) && !strings.Contains(string(text), `\054`) {
				t.Errorf("option %q", option)
			}
		}
	})
}

func FuzzStatmount(f *testing.F) {
	f.Add(make([]byte, statmountSize+8))
	f.Fuzz(func(t *testing.T, answer []byte) {
		r, err := parseStatmount(answer)
		if err == nil && len(r.mountOptions) == 0 {
			t.Errorf("no options in %+v", r)
		}
	})
}
