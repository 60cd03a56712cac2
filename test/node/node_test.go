package node

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
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
	got := testkit.Value(realPath(filepath.Join(dir, "link", "absent", "deeper")))(t)
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
		data := testkit.Value(render(name, n.settings()))(t)
		var parsed map[string]any
		if err := yaml.Unmarshal(data, &parsed); err != nil || len(parsed) == 0 {
			t.Errorf("%s: %v\n%s", name, err, data)
		}
	}
	data := testkit.Value(render("kubelet.yaml", n.settings()))(t)
	for _, want := range []string{"address: " + n.address() + "\n", "cgroupRoot: /" + n.cgroup() + "\n"} {
		if !bytes.Contains(data, []byte(want)) {
			t.Errorf("kubelet.yaml lacks %q", want)
		}
	}
}

// TestKubernetesVersionMatchesTheModule: the built programs must report their real version.
func TestKubernetesVersionMatchesTheModule(t *testing.T) {
	goMod := testkit.Value(os.ReadFile("../cluster/go.mod"))(t)
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
	dir := testkit.Value(os.MkdirTemp("", "mn-"))(t)
	t.Cleanup(func() {
		// Not through a mount that a failing test has left.
		testkit.Check(t, removeTree(dir))
	})
	dir = testkit.Value(filepath.EvalSymlinks(dir))(t)
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	testkit.Must(t, os.WriteFile(path, []byte(content), 0o600))
}

func TestImageIsReproducible(t *testing.T) {
	image := Image{
		Ref: "mayfly.test/x:1", Cmd: []string{"/x"}, User: "5",
		Files: []ImageFile{
			{Path: "dir/", Mode: 0o755},
			{Path: "dir/x", Mode: 0o755, Data: []byte("program")},
			{Path: "link", Mode: 0o777, Link: "dir/x"},
		},
	}
	var first, second bytes.Buffer
	testkit.Must(t, errors.Join(image.WriteTar(&first), image.WriteTar(&second)))
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same image gives different bytes")
	}
	outer := untar(t, &first)
	var config struct {
		Config struct {
			Cmd  []string
			User string
		}
	}
	testkit.Must(t, json.Unmarshal(outer["config.json"], &config))
	if !slices.Equal(config.Config.Cmd, image.Cmd) || config.Config.User != "5" {
		t.Errorf("configuration: %s", outer["config.json"])
	}
	layer := untar(t, bytes.NewReader(outer["layer.tar"]))
	if string(layer["dir/x"]) != "program" || len(layer) != 3 {
		t.Errorf("layer: %q", layer)
	}
}

func untar(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		testkit.Must(t, err)
		files[header.Name] = testkit.Value(io.ReadAll(archive))(t)
	}
}

func TestParseEnviron(t *testing.T) {
	const dir = "/tmp/mayfly-node"
	tests := map[string]struct {
		environ string
		want    Component
		ok      bool
	}{
		"ours":              {"PATH=/bin\x00MAYFLY_NODE_PROCESS_OF=" + dir + "\x00MAYFLY_NODE_COMPONENT=etcd\x00", Etcd, true},
		"of another folder": {"MAYFLY_NODE_PROCESS_OF=" + dir + "2\x00MAYFLY_NODE_COMPONENT=etcd\x00", Etcd, false},
		"a user's shell":    {"MAYFLY_NODE_DIR=" + dir + "\x00", "", false},
		"value within":      {"X=MAYFLY_NODE_PROCESS_OF=" + dir + "\x00", "", false},
		"gone":              {"", "", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := parseEnviron([]byte(test.environ), dir)
			if ok != test.ok || got.component != test.want {
				t.Errorf("got %v %v, want %v %v", got.component, ok, test.want, test.ok)
			}
		})
	}
}

// TestKillAllFindsByMark: a process with the node's variables and its child are killed, and no others.
func TestKillAllFindsByMark(t *testing.T) {
	l := layout{dir: shortDir(t)}
	marked := exec.Command("sh", "-c", "sleep 1000 & sleep 1000")
	marked.Env = append(os.Environ(), envDir+"="+l.dir, envComponent+"="+string(Etcd))
	marked.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	other := exec.Command("sleep", "1000")
	for _, cmd := range []*exec.Cmd{marked, other} {
		testkit.Must(t, cmd.Start())
	}
	defer func() {
		testkit.Check(t, other.Process.Kill())
		// A signal of this test ends it, which Wait reports.
		_ = other.Wait()
	}()
	testkit.Must(t, awaitMark(t.Context(), marked.Process.Pid))
	if pid, err := l.pidOf(Etcd); err != nil || pid != marked.Process.Pid {
		t.Errorf("pidOf gives %d, %v; want %d", pid, err, marked.Process.Pid)
	}
	testkit.Must(t, l.killAll(t.Context()))
	if left, err := processes(l.dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := other.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other process: %v", err)
	}
}

func TestAwaitMarkReportsAnExit(t *testing.T) {
	cmd := exec.Command("false")
	testkit.Must(t, cmd.Start())
	err := poll(t.Context(), "waiting for the exit", func(ctx context.Context) error {
		if err := awaitMark(ctx, cmd.Process.Pid); err == nil {
			return errors.New("still running")
		}
		return nil
	})
	testkit.Check(t, err)
}

func TestIsStatic(t *testing.T) {
	if isStatic("/proc/self/status") {
		t.Error("a text is a static program")
	}
	self := testkit.Value(os.Executable())(t)
	file := testkit.Value(os.ReadFile(self))(t)
	if want := !bytes.Contains(file[:4096], []byte("/ld-linux")); isStatic(self) != want {
		t.Errorf("isStatic of this test is %v, want %v", !want, want)
	}
}

func TestDenyServices(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy-rc.d")
	undo := testkit.Value(denyServices(policy))(t)
	var exit *exec.ExitError
	if err := exec.Command(policy, "etcd", "start").Run(); !errors.As(err, &exit) || exit.ExitCode() != 101 {
		t.Errorf("the policy ends with %v, want exit status 101", err)
	}
	again := testkit.Value(denyServices(policy))(t)
	testkit.Must(t, again())
	if _, err := os.Stat(policy); err != nil {
		t.Errorf("the policy that existed before: %v", err)
	}
	testkit.Must(t, undo())
	if _, err := os.Stat(policy); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("our policy stays: %v", err)
	}
}

func TestUndoRestores(t *testing.T) {
	machine, settings := shortDir(t), t.TempDir()
	setting := filepath.Join(settings, "vm", "panic_on_oom")
	testkit.Must(t, os.Mkdir(filepath.Dir(setting), 0o755))
	write(t, setting, "7\n")
	made, used := filepath.Join(machine, "a", "b"), filepath.Join(machine, "c")
	changes := testkit.Value(plan(settings, []string{made, used, machine}))(t)
	note := filepath.Join(t.TempDir(), "undo.json")
	testkit.Must(t, errors.Join(changes.write(note), makeDirectories([]string{made, used, machine})))
	write(t, setting, "1\n")
	write(t, filepath.Join(used, "file"), "of another program")

	read := testkit.Value(readUndo(note))(t)
	testkit.Must(t, read.apply(settings))
	if now, err := os.ReadFile(setting); err != nil || strings.TrimSpace(string(now)) != "7" {
		t.Errorf("the setting is %q, %v", now, err)
	}
	if _, err := os.Stat(filepath.Dir(made)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that was made stays: %v", err)
	}
	if _, err := os.Stat(filepath.Join(used, "file")); err != nil {
		t.Errorf("a directory in use: %v", err)
	}
}

func TestUndoWithoutNote(t *testing.T) {
	changes := testkit.Value(readUndo(filepath.Join(t.TempDir(), "absent")))(t)
	testkit.Must(t, changes.apply(t.TempDir()))
}

// The last of several nodes restores what the first one recorded.
func TestUndoIsPassedToAnotherNode(t *testing.T) {
	first, second := layout{dir: shortDir(t)}, layout{dir: shortDir(t)}
	noted := undo{Directories: []string{filepath.Join(t.TempDir(), "made")}}
	testkit.Must(t, makeDirectories(noted.Directories))
	testkit.Must(t, errors.Join(noted.write(first.undo()), undo{}.write(second.undo())))
	testkit.Must(t, first.undoChanges([]layout{second}))
	if _, err := os.Stat(noted.Directories[0]); err != nil {
		t.Errorf("restored while another node runs: %v", err)
	}
	testkit.Must(t, errors.Join(first.undoChanges(nil), second.undoChanges(nil)))
	if _, err := os.Stat(noted.Directories[0]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("not restored by the last node: %v", err)
	}
}

func TestUndoKeepsAnotherNodesRecord(t *testing.T) {
	first, second := layout{dir: shortDir(t)}, layout{dir: shortDir(t)}
	theirs := undo{Sysctls: map[string]string{"kernel/panic": "5"}}
	testkit.Must(t, errors.Join(undo{Directories: []string{"/x"}}.write(first.undo()), theirs.write(second.undo())))
	testkit.Must(t, first.undoChanges([]layout{second}))
	if got, err := readUndo(second.undo()); err != nil || got.Sysctls["kernel/panic"] != "5" || len(got.Directories) > 0 {
		t.Errorf("the other node's record is %v, %v", got, err)
	}
}

func TestNeighboursAreMarked(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root's processes are taken for a node's")
	}
	ours, theirs, unmarked := layout{dir: shortDir(t)}, layout{dir: shortDir(t)}, layout{dir: shortDir(t)}
	for _, l := range []layout{ours, theirs, unmarked} {
		runMarked(t, l)
	}
	write(t, ours.marker(), "")
	write(t, theirs.marker(), "")
	others := testkit.Value(neighbours(ours.dir))(t)
	if !slices.Contains(others, theirs) || slices.Contains(others, ours) || slices.Contains(others, unmarked) {
		t.Errorf("the neighbours of %v are %v", ours, others)
	}
}

// runMarked runs a process of a node until the test ends.
func runMarked(t *testing.T, l layout) {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	cmd.Env = []string{envDir + "=" + l.dir, envComponent + "=" + string(Etcd)}
	testkit.Must(t, cmd.Start())
	t.Cleanup(func() { testkit.Check(t, l.killAll(context.WithoutCancel(t.Context()))) })
	testkit.Must(t, awaitMark(t.Context(), cmd.Process.Pid))
}
