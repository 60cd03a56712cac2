package tmpfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	mount "k8s.io/mount-utils"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// inNamespace marks a test process that runs in a user and mount namespace of
// its own.
const inNamespace = "MAYFLY_TMPFS_IN_USER_NAMESPACE"

// TestMain lets an ordinary user run the tests too, in a user namespace, and
// fails the run if a mount is left behind by any of them.
func TestMain(m *testing.M) {
	if _, err := New(); err != nil && os.Getenv(inNamespace) == "" {
		cmd := namespaceCommand(os.Args[1:]...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Start(); err == nil {
			if cmd.Wait() != nil {
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	code := m.Run()
	if left := leftBehind(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "FAIL: mounts left behind: %q\n", left)
		code = 1
	}
	os.Exit(code)
}

func namespaceCommand(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	return cmd
}

// area is part of the path of every directory that these tests mount on; it
// differs from process to process.
func area() string { return fmt.Sprintf("mayfly-tmpfs-test-%d-", os.Getpid()) }

func leftBehind() (points []string) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, area()) {
			points = append(points, line)
		}
	}
	return points
}

// mounters are the ways of new and old kernels to inspect, which must pass every test.
func mounters(t *testing.T) map[string]*Mounter {
	t.Helper()
	m := newMounter(t)
	return map[string]*Mounter{
		"statmount": m,
		// Linux from 5.8 to 6.12 has no statmount(2) that is of use.
		"mountinfo": {noSwap: m.noSwap, noSwapReason: m.noSwapReason, detaching: m.detaching},
	}
}

func eachWay(t *testing.T, test func(t *testing.T, m *Mounter)) {
	for name, m := range mounters(t) {
		t.Run(name, func(t *testing.T) { test(t, m) })
	}
}

func newMounter(t testing.TB) *Mounter {
	t.Helper()
	m, err := New()
	if err != nil && os.Geteuid() != 0 {
		t.Skipf("neither root nor able to make a user namespace: %v", err)
	}
	testkit.Must(t, err)
	return m
}

// newDir makes a directory that is removed, with the mounts on it, after the test.
// testing.T.TempDir would delete the contents of a mount.
func newDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", area())
	testkit.Must(t, err)
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		detachBelow(t, dir)
		testkit.Check(t, os.RemoveAll(dir))
	})
	return dir
}

// detachBelow removes every mount under dir, the last first.
func detachBelow(t testing.TB, dir string) {
	for range 100 {
		data := testkit.Value(os.ReadFile("/proc/self/mountinfo"))(t)
		last := ""
		for line := range bytes.Lines(data) {
			if point := strings.Fields(string(line))[4]; strings.HasPrefix(point, dir) {
				last = unescape(point)
			}
		}
		if last == "" {
			return
		}
		if err := unix.Unmount(last, unix.MNT_DETACH); err != nil {
			t.Errorf("unmounting %q: %v", last, err)
			return
		}
	}
	t.Errorf("still mounted under %q after 100 unmounts", dir)
}

func newTarget(t testing.TB) string {
	t.Helper()
	target := filepath.Join(newDir(t), "mount")
	mkdir(t, target)
	return target
}

func mkdir(t testing.TB, dir string) {
	t.Helper()
	testkit.Must(t, os.MkdirAll(dir, 0o755))
}

func write(t testing.TB, file string, size int) {
	t.Helper()
	testkit.Must(t, os.WriteFile(file, bytes.Repeat([]byte{'x'}, size), 0o600))
}

// small are valid options for tests that are about something else.
func small() Options { return Options{Size: 1 << 20, Inodes: 64} }

func mustMount(t testing.TB, m *Mounter, target string, o Options) {
	t.Helper()
	testkit.Must(t, m.Mount(target, o))
}

func wantGone(t testing.TB, m *Mounter, target string) {
	t.Helper()
	if mustInspect(t, m, target).Exists {
		t.Errorf("%s is still there", target)
	}
}

func mustInspect(t testing.TB, m *Mounter, target string) Info {
	t.Helper()
	return testkit.Value(m.Inspect(target))(t)
}

// mountBy mounts something that is not the driver's.
func mountBy(t testing.TB, source, target, kind string, flags uintptr, data string) {
	t.Helper()
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		t.Fatalf("mounting %s from %s at %q: %v", kind, source, target, err)
	}
}

// seen is the topmost mount at target as Kubernetes' own code reads it.
func seen(t testing.TB, target string) *mount.MountInfo {
	t.Helper()
	list := testkit.Value(mount.ParseMountInfo("/proc/self/mountinfo"))(t)
	var found *mount.MountInfo
	for i := range list {
		if unescape(list[i].MountPoint) == target {
			found = &list[i]
		}
	}
	return found
}

func modeOf(t testing.TB, path string) (fs.FileMode, *syscall.Stat_t) {
	t.Helper()
	info := testkit.Value(os.Stat(path))(t)
	return info.Mode().Perm(), info.Sys().(*syscall.Stat_t)
}

// depth counts the mounts stacked at a target.
func depth(t testing.TB, target string) int {
	t.Helper()
	target, err := filepath.EvalSymlinks(target)
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	testkit.Must(t, err)
	list := testkit.Value(os.ReadFile("/proc/self/mountinfo"))(t)
	n := 0
	for line := range strings.Lines(string(list)) {
		// Kubernetes' parser ends a name at an odd space.
		if fields := strings.Split(line, " "); len(fields) > 4 && unescape(fields[4]) == target {
			n++
		}
	}
	return n
}

// The whole suite passes in a user namespace, where the demo runs without root.
func TestUserNamespace(t *testing.T) {
	if os.Getenv(inNamespace) != "" {
		t.Skip("already in one")
	}
	if testing.Short() {
		t.Skip("runs the suite a second time")
	}
	cmd := namespaceCommand("-test.count=1", "-test.v")
	output, err := cmd.CombinedOutput()
	if cmd.Process == nil {
		t.Skipf("no user namespaces here: %v", err)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	testkit.Has(t, string(output), "--- PASS: TestMountOptions") // the tests have run
}
