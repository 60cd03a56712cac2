package node

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

func TestLayoutRefusesFolders(t *testing.T) {
	tests := map[string]struct {
		dir string
		ok  bool
	}{
		"plain":    {"/tmp/mayfly-node", true},
		"root":     {"/", false},
		"colon":    {"/tmp/a:b", false},
		"comma":    {"/tmp/a,b", false},
		"space":    {"/tmp/a b", false},
		"longest":  {"/tmp/" + strings.Repeat("x", maxDirLength-5), true},
		"too long": {"/tmp/" + strings.Repeat("x", maxDirLength-4), false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := newLayout(test.dir); (err == nil) != test.ok {
				t.Errorf("newLayout(%q): %v, want success: %v", test.dir, err, test.ok)
			}
		})
	}
}

func TestLayoutResolvesLinks(t *testing.T) {
	dir := shortDir(t)
	testkit.Must(t, os.Symlink(".", filepath.Join(dir, "link")))
	got, err := realPath(filepath.Join(dir, "link", "absent", "deeper"))
	testkit.Must(t, err)
	if want := filepath.Join(dir, "absent", "deeper"); got != want {
		t.Errorf("realPath gives %s, want %s", got, want)
	}
}

func TestAddressIsTheServicesFirst(t *testing.T) {
	seen := map[string]bool{}
	for _, dir := range []string{"/tmp/mayfly-node", "/tmp/b", "/tmp/c"} {
		l := layout{dir: dir}
		address := net.ParseIP(l.address())
		_, services, err := net.ParseCIDR(l.serviceRange())
		testkit.Must(t, err)
		if !address.IsLoopback() || !services.Contains(address) || address.To4()[3] != services.IP.To4()[3]+1 {
			t.Errorf("%s: address %s in %s", dir, address, services)
		}
		seen[l.address()] = true
	}
	if len(seen) != 3 {
		t.Errorf("three folders share addresses: %v", seen)
	}
}

func TestSocketsFit(t *testing.T) {
	l := layout{dir: "/" + strings.Repeat("x", maxDirLength-1)}
	socket := filepath.Join(l.kubeletRoot(), "plugins_registry", "secrets-store.csi.k8s.io-reg.sock")
	if limit := len(syscall.RawSockaddrUnix{}.Path) - 1; len(socket) > limit {
		t.Errorf("a driver's socket in the longest folder has %d bytes, the kernel takes %d", len(socket), limit)
	}
}

func TestConfigIsWellFormed(t *testing.T) {
	n := Node{layout: layout{dir: "/tmp/mayfly-node"}, programs: programs{"runc": "/sbin/runc", "busybox": "/bin/busybox"}}
	for _, name := range []string{"kubelet.yaml", "audit.yaml", "cni.conflist"} {
		data, err := render(name, n.settings())
		testkit.Must(t, err)
		var parsed map[string]any
		if err := yaml.Unmarshal(data, &parsed); err != nil || len(parsed) == 0 {
			t.Errorf("%s: %v\n%s", name, err, data)
		}
	}
	data, err := render("kubelet.yaml", n.settings())
	testkit.Must(t, err)
	for _, want := range []string{"address: " + n.address() + "\n", "cgroupRoot: /" + n.cgroup() + "\n"} {
		if !bytes.Contains(data, []byte(want)) {
			t.Errorf("kubelet.yaml lacks %q", want)
		}
	}
}

// TestKubernetesVersionMatchesTheModule: the built programs must report their real version.
func TestKubernetesVersionMatchesTheModule(t *testing.T) {
	goMod, err := os.ReadFile("../cluster/go.mod")
	testkit.Must(t, err)
	if want := "require k8s.io/kubernetes " + toolcache.KubernetesVersion + " "; !bytes.Contains(goMod, []byte(want)) {
		t.Errorf("test/cluster/go.mod lacks %q", want)
	}
}

func TestCgroupsAreFoundBelow(t *testing.T) {
	root := t.TempDir()
	for path, procs := range map[string]string{
		"node":           "",
		"node/pods/a":    "12\n7\n",
		"node/pods/b":    "7\n0\n",
		"nodeless":       "99\n",
		"node/pods/a/aa": "3\n",
	} {
		dir := filepath.Join(root, path)
		testkit.Must(t, os.MkdirAll(dir, 0o755))
		testkit.Must(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(procs), 0o644))
	}
	if got := cgroupPids([]string{root}, "node"); !slices.Equal(got, []int{3, 7, 12}) {
		t.Errorf("processes: %v", got)
	}
	dirs := cgroupDirs([]string{root}, "node")
	if len(dirs) != 5 || slices.Index(dirs, root+"/node/pods/a/aa") > slices.Index(dirs, root+"/node/pods/a") {
		t.Errorf("want five, children first: %v", dirs)
	}
}

func TestCgroupGetsControllersAndProcessors(t *testing.T) {
	root := t.TempDir()
	testkit.Must(t, os.Mkdir(filepath.Join(root, "node"), 0o755))
	if err := fillCpuset(root, "node"); err != nil {
		t.Errorf("without a cpuset controller: %v", err)
	}
	for _, file := range []string{"node/cpuset.cpus", "node/cpuset.mems", "cgroup.subtree_control", "node/cgroup.subtree_control"} {
		write(t, filepath.Join(root, file), "")
	}
	write(t, filepath.Join(root, "cpuset.cpus"), "0-1\n")
	write(t, filepath.Join(root, "cpuset.mems"), "0\n")
	testkit.Must(t, errors.Join(fillCpuset(root, "node"), delegate(root, "node")))
	for file, want := range map[string]string{
		"node/cpuset.cpus":            "0-1",
		"node/cpuset.mems":            "0",
		"cgroup.subtree_control":      "+pids", // the last one written
		"node/cgroup.subtree_control": "+pids",
	} {
		if got, err := os.ReadFile(filepath.Join(root, file)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v; want %q", file, got, err, want)
		}
	}
}

func TestForeignFolderIsLeftAlone(t *testing.T) {
	dir := shortDir(t)
	l := layout{dir: dir}
	if err := l.checkOwned(); err != nil {
		t.Errorf("an empty folder: %v", err)
	}
	write(t, filepath.Join(dir, "thesis.txt"), "precious")
	if err := l.checkOwned(); err == nil {
		t.Error("a folder with other files is accepted as a node's")
	}
	write(t, l.marker(), "")
	if err := l.checkOwned(); err != nil {
		t.Errorf("a node's folder: %v", err)
	}
}

func TestMountOf(t *testing.T) {
	var mounts []*mountinfo.Info
	for _, point := range []string{"/", "/var", "/var/lib/kube", "/run"} {
		mounts = append(mounts, &mountinfo.Info{Mountpoint: point})
	}
	for path, want := range map[string]string{
		"/var/lib/kubelet": "/var",
		"/var":             "/var",
		"/variable":        "/",
		"/run/containerd":  "/run",
	} {
		if got := mountOf(mounts, path); got != want {
			t.Errorf("mountOf(%s) = %s, want %s", path, got, want)
		}
	}
}

func TestPollReturnsTheErrorBeforeTheTimeout(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cause := errors.New("what is wrong")
	calls := 0
	err := poll(ctx, "trying", func(ctx context.Context) error {
		if calls++; calls == 1 {
			return cause
		}
		cancel()
		return ctx.Err()
	})
	if !errors.Is(err, cause) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := poll(t.Context(), "trying", func(context.Context) error { return fatal(cause) }); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

// shortDir is a temporary folder whose path is short enough for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mn-")
	testkit.Must(t, err)
	t.Cleanup(func() {
		// Not through a mount that a failing test has left.
		testkit.Check(t, removeTree(dir))
	})
	dir, err = filepath.EvalSymlinks(dir)
	testkit.Must(t, err)
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	testkit.Must(t, os.WriteFile(path, []byte(content), 0o600))
}
