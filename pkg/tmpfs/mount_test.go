package tmpfs

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/version"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestMountOptions(t *testing.T) {
	group := uint32(0)
	if os.Getenv(inNamespace) == "" {
		group = 12345
	}
	tests := []struct {
		name    string
		options Options
		super   []string
		mode    fs.FileMode
		gid     uint32
	}{
		{"defaults", Options{Size: 1 << 20, Inodes: 50}, []string{"size=1024k", "nr_inodes=50", "mode=755"}, 0o755, 0},
		{"mode", Options{Size: 64 << 10, Inodes: 9, Mode: 0o750}, []string{"size=64k", "nr_inodes=9", "mode=750"}, 0o750, 0},
		{"group", Options{Size: 1 << 30, Inodes: 1000, Mode: 0o550, GID: &group}, []string{"size=1048576k", "mode=550"}, 0o550, group},
		{"size is rounded up to pages", Options{Size: 1, Inodes: 1}, []string{"nr_inodes=1"}, 0o755, 0},
	}
	eachWay(t, func(t *testing.T, m *Mounter) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				target := newTarget(t)
				mustMount(t, m, target, test.options)
				found := seen(t, target)
				if found == nil || found.FsType != "tmpfs" || found.Source != "mayfly" {
					t.Fatalf("mountinfo shows %+v", found)
				}
				for _, want := range []string{"nosuid", "nodev", "noexec", "rw"} {
					if !slices.Contains(found.MountOptions, want) {
						t.Errorf("mount option %s is missing: %v", want, found.MountOptions)
					}
				}
				if noSwap, _ := m.NoSwap(); noSwap != slices.Contains(found.SuperOptions, "noswap") {
					t.Errorf("NoSwap says %v, the mount has %v", noSwap, found.SuperOptions)
				}
				for _, want := range test.super {
					if want != "mode=755" && !slices.Contains(found.SuperOptions, want) {
						t.Errorf("option %s is missing: %v", want, found.SuperOptions)
					}
				}
				mode, st := modeOf(t, target)
				if mode != test.mode || st.Gid != test.gid {
					t.Errorf("root has mode %v and group %d, not %v and %d", mode, st.Gid, test.mode, test.gid)
				}
			})
		}
	})
}

func TestNoSwapFollowsKernel(t *testing.T) {
	var name unix.Utsname
	testkit.Must(t, unix.Uname(&name))
	release := unix.ByteSliceToString(name.Release[:])
	eachWay(t, func(t *testing.T, m *Mounter) {
		enabled, reason := m.NoSwap()
		switch {
		case os.Getenv(inNamespace) != "" || !version.MustParseGeneric(release).AtLeast(version.MustParseGeneric("6.3")):
			if enabled || reason == "" {
				t.Errorf("noswap %v, reason %q where it is not possible", enabled, reason)
			}
		case !enabled:
			t.Errorf("no noswap on Linux %s: %s", release, reason)
		}
	})
}

func TestLimitsHold(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := newTarget(t)
		mustMount(t, m, target, Options{Size: 64 << 10, Inodes: 4})
		write(t, filepath.Join(target, "fits"), 64<<10)
		err := os.WriteFile(filepath.Join(target, "more"), []byte("x"), 0o600)
		testkit.Is(t, err, unix.ENOSPC) // a byte over the limit
		// The root directory, "fits" and "more" use three of four inodes.
		write(t, filepath.Join(target, "last"), 0)
		err = os.WriteFile(filepath.Join(target, "over"), nil, 0o600)
		testkit.Is(t, err, unix.ENOSPC) // an inode over the limit
	})
}

func TestMountRefusesTargets(t *testing.T) {
	dir := newDir(t)
	victim := filepath.Join(dir, "victim")
	mkdir(t, victim)
	write(t, filepath.Join(dir, "file"), 1)
	testkit.Must(t, os.Symlink(victim, filepath.Join(dir, "link")))
	tests := []struct {
		name, target string
		want         error
		text         string
	}{
		{"missing", dir + "/missing", fs.ErrNotExist, "missing"},
		{"file", dir + "/file", ErrNotDirectory, "/file"},
		{"below a file", dir + "/file/x", ErrNotDirectory, "/file/x"},
		{"link", dir + "/link", ErrNotDirectory, "symbolic link"},
		{"link with slash", dir + "/link/", ErrNotDirectory, "symbolic link"},
		{"link with dot", dir + "/link/.", ErrNotDirectory, "symbolic link"},
		{"empty", "", ErrTarget, "empty"},
		{"relative", "x/y", ErrTarget, "not absolute"},
		{"dots", dir + "/link/../victim", ErrTarget, `".."`},
		{"NUL", dir + "/victim\x00", ErrTarget, "NUL"},
	}
	eachWay(t, func(t *testing.T, m *Mounter) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				err := m.Mount(test.target, small())
				if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
					t.Errorf("got %v, want %v with %q", err, test.want, test.text)
				}
			})
		}
		testkit.Empty(t, "mounted all the same", leftBehind())
	})
}

func TestMountRefusesMountPoints(t *testing.T) {
	tests := map[string]struct {
		prepare func(t *testing.T, m *Mounter, target string)
		info    Info
	}{
		"our own": {func(t *testing.T, m *Mounter, target string) {
			mustMount(t, m, target, small())
		}, Info{Ours: true, FSType: "tmpfs", Source: "mayfly", Root: "/"}},
		"another tmpfs": {func(t *testing.T, _ *Mounter, target string) {
			mountBy(t, "tmpfs", target, "tmpfs", 0, "size=4k")
		}, Info{FSType: "tmpfs", Source: "tmpfs", Root: "/"}},
		"source with a space": {func(t *testing.T, _ *Mounter, target string) {
			mountBy(t, "may fly", target, "tmpfs", 0, "size=4k")
		}, Info{FSType: "tmpfs", Source: "may fly", Root: "/"}},
		"ramfs of our name": {func(t *testing.T, _ *Mounter, target string) {
			mountBy(t, Source, target, "ramfs", 0, "")
		}, Info{FSType: "ramfs", Source: "mayfly", Root: "/"}},
		"directory of our own": {func(t *testing.T, m *Mounter, target string) {
			volume := newTarget(t)
			mustMount(t, m, volume, small())
			mkdir(t, volume+"/a b")
			mountBy(t, volume+"/a b", target, "", unix.MS_BIND, "")
		}, Info{FSType: "tmpfs", Source: "mayfly", Root: "/a b"}},
		"read-only tmpfs": {func(t *testing.T, _ *Mounter, target string) {
			mountBy(t, "x", target, "tmpfs", unix.MS_RDONLY, "size=4k")
		}, Info{FSType: "tmpfs", Source: "x", Root: "/", ReadOnly: true}},
		"writable mount of a read-only tmpfs": {func(t *testing.T, _ *Mounter, target string) {
			mountBy(t, "x", target, "tmpfs", unix.MS_RDONLY, "size=4k")
			mountBy(t, "", target, "", unix.MS_REMOUNT|unix.MS_BIND, "")
		}, Info{FSType: "tmpfs", Source: "x", Root: "/", ReadOnly: true}},
	}
	eachWay(t, func(t *testing.T, m *Mounter) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				target := newTarget(t)
				test.prepare(t, m, target)
				before := seen(t, target)
				err := m.Mount(target, small())
				var conflict *ConflictError
				if !errors.Is(err, ErrMounted) || !errors.As(err, &conflict) {
					t.Fatalf("got %v, want ErrMounted", err)
				}
				got := conflict.Info
				if !got.Exists || !got.Mounted || depth(t, target) != 1 {
					t.Errorf("reported as %+v", got)
				}
				if got.Ours != test.info.Ours || got.FSType != test.info.FSType || got.Source != test.info.Source ||
					got.Root != test.info.Root || got.ReadOnly != test.info.ReadOnly {
					t.Errorf("reported as %+v, want %+v", got, test.info)
				}
				testkit.Equal(t, "the id of the topmost mount", seen(t, target).ID, before.ID)
			})
		}
	})
}

// Without SELinux the kernel refuses its option with a text; with SELinux it applies.
func TestSELinuxContext(t *testing.T) {
	const context = "system_u:object_r:container_file_t:s0:c1,c2"
	_, err := os.Stat("/sys/fs/selinux/enforce")
	enabled := err == nil
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := newTarget(t)
		o := small()
		o.SELinuxContext = context
		err := m.Mount(target, o)
		info := mustInspect(t, m, target)
		if enabled {
			if err != nil || !info.Has(`context="`+context+`"`) {
				t.Errorf("mounting: %v; found %+v", err, info)
			}
			return
		}
		if !errors.Is(err, unix.EINVAL) || info.Mounted {
			t.Fatalf("got %v, mounted %v", err, info.Mounted)
		}
		testkit.Says(t, err, "option context", context, "SELinux", target)
	})
}

// A mount of the driver in a shared tree must appear, and disappear, on the other side, where
// kubelet and the pod see it.
func TestMountPropagates(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		dir := newDir(t)
		host, peer := dir+"/host", dir+"/peer"
		mkdir(t, host)
		mkdir(t, peer)
		mountBy(t, "host", host, "tmpfs", 0, "size=64k")
		mountBy(t, "", host, "", unix.MS_SHARED, "")
		mountBy(t, host, peer, "", unix.MS_BIND, "")
		mkdir(t, host+"/volume")
		mustMount(t, m, host+"/volume", small())
		if info := mustInspect(t, m, peer+"/volume"); !info.Ours {
			t.Errorf("the peer has %+v", info)
		}
		testkit.Must(t, m.Unmount(host+"/volume"))
		if info := mustInspect(t, m, peer+"/volume"); info.Mounted {
			t.Errorf("the peer still has %+v", info)
		}
	})
}

func TestFailedMountNamesCause(t *testing.T) {
	newMounter(t) // skips where nothing can be mounted
	target := newTarget(t)
	c, err := openContext()
	testkit.Must(t, err)
	defer c.close()
	err = fail("creating a tmpfs for", target, c.set(parameter{"size", "much"}))
	testkit.Says(t, err, target, "option size", `"much"`, "invalid argument", "Bad value for 'size'")
}

// The cached list equals a fresh read, after every kind of change and with another reader polling
// as well; and it stays cached while nothing changes.
func TestMountListIsCurrent(t *testing.T) {
	m := newMounter(t)
	target := newTarget(t)
	var list, other mountList
	check := func(after string) {
		t.Helper()
		testkit.Value(other.current())(t)
		got := testkit.Value(list.current())(t)
		want := testkit.Value(os.ReadFile(mountinfoPath))(t)
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
	first := testkit.Value(list.current())(t)
	// Mounts of other processes may come in between, but not every time.
	for range 100 {
		again := testkit.Value(list.current())(t)
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

func TestValidate(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Options)
		field  string
	}{
		{"plain", func(*Options) {}, ""},
		{"no size", func(o *Options) { o.Size = 0 }, "Size"},
		{"negative size", func(o *Options) { o.Size = -1 }, "Size"},
		{"no inodes", func(o *Options) { o.Inodes = 0 }, "Inodes"},
		{"closed mode", func(o *Options) { o.Mode = 0o500 }, ""},
		{"group", func(o *Options) { o.GID = new(uint32(math.MaxInt32)) }, ""},
		{"context", func(o *Options) { o.SELinuxContext = "u:r:t:s0:c1,c2" }, ""},
		{"quote within", func(o *Options) { o.SELinuxContext = `u:r:t:s0",size=1g,x="` }, "SELinuxContext"},
		{"lone quote", func(o *Options) { o.SELinuxContext = `"` }, "SELinuxContext"},
		{"NUL", func(o *Options) { o.SELinuxContext = "u:r\x00" }, "SELinuxContext"},
		{"newline", func(o *Options) { o.SELinuxContext = "u:r\n" }, "SELinuxContext"},
		{"backslash", func(o *Options) { o.SELinuxContext = `u:r\` }, "SELinuxContext"},
		{"longest", func(o *Options) { o.SELinuxContext = strings.Repeat("c", 255) }, ""},
		{"too long", func(o *Options) { o.SELinuxContext = strings.Repeat("c", 256) }, "SELinuxContext"},
	}
	for _, test := range tests {
		o := small()
		test.change(&o)
		err := o.Validate()
		var option *OptionError
		switch {
		case test.field == "" && err != nil:
			t.Errorf("%s: %v", test.name, err)
		case test.field != "" && (!errors.As(err, &option) || option.Field != test.field):
			t.Errorf("%s: got %v, want field %s", test.name, err, test.field)
		}
	}
}

func TestValidateNames(t *testing.T) {
	err := (&Mounter{}).Mount("/nowhere", Options{Mode: 0o777})
	testkit.Says(t, err, "/nowhere", "Size")
	testkit.Lacks(t, err.Error(), "\n")
}

func TestMountAtOnce(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := newTarget(t)
		errs := make([]error, 16)
		var group sync.WaitGroup
		for i := range errs {
			group.Go(func() { errs[i] = m.Mount(target, small()) })
		}
		group.Wait()
		mounted := 0
		for _, err := range errs {
			switch {
			case err == nil:
				mounted++
			case !errors.Is(err, ErrMounted):
				t.Error(err)
			}
		}
		if info := mustInspect(t, m, target); mounted != 1 || !info.Ours || depth(t, target) != 1 {
			t.Errorf("%d calls succeeded, %d mounts are stacked", mounted, depth(t, target))
		}
	})
}

// A target that becomes a symbolic link after it was opened must not lead the
// mount to where the link points.
func TestMountFollowsNoSwap(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := newTarget(t)
		moved, victim := target+"-moved", target+"-victim"
		mkdir(t, victim)
		d := testkit.Value(openDirectory(target))(t)
		defer d.close()
		testkit.Must(t, os.Rename(target, moved))
		testkit.Must(t, os.Symlink(victim, target))
		testkit.Must(t, m.mountAt(d, small()))
		if mustInspect(t, m, victim).Mounted {
			t.Error("the link's target was mounted on")
		}
		if !mustInspect(t, m, moved).Ours {
			t.Error("the directory that was opened is not the one mounted on")
		}
	})
}

// A mount that came after the directory was opened is seen all the same.
func TestMountSeesLaterMount(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		target := newTarget(t)
		d := testkit.Value(openDirectory(target))(t)
		defer d.close()
		mountBy(t, "other", target, "tmpfs", 0, "size=4k")
		testkit.Is(t, m.mountAt(d, small()), ErrMounted)
		if info := mustInspect(t, m, target); depth(t, target) != 1 || info.Source != "other" {
			t.Errorf("found %+v", info)
		}
	})
}

// A mount point that was opened stays one when its path leads elsewhere.
func TestMountRefusesMovedMountPoint(t *testing.T) {
	eachWay(t, func(t *testing.T, m *Mounter) {
		dir := newDir(t)
		target := dir + "/old/mount"
		mkdir(t, target)
		mustMount(t, m, target, small())
		d := testkit.Value(openDirectory(target))(t)
		defer d.close()
		testkit.Must(t, os.Rename(dir+"/old", dir+"/new"))
		testkit.Is(t, m.mountAt(d, small()), ErrMounted)
		if info := mustInspect(t, m, dir+"/new/mount"); !info.Ours || depth(t, dir+"/new/mount") != 1 {
			t.Errorf("found %+v", info)
		}
	})
}
