package tmpfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("a byte over the limit: %v", err)
		}
		// The root directory, "fits" and "more" use three of four inodes.
		write(t, filepath.Join(target, "last"), 0)
		err = os.WriteFile(filepath.Join(target, "over"), nil, 0o600)
		if !errors.Is(err, unix.ENOSPC) {
			t.Errorf("an inode over the limit: %v", err)
		}
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
		if left := leftBehind(); len(left) > 0 {
			t.Errorf("mounted all the same: %q", left)
		}
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
				if after := seen(t, target); after.ID != before.ID {
					t.Errorf("topmost mount was %+v and is %+v", before, after)
				}
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
