package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// nobody is an ordinary user that every machine has.
const nobody = 65534

// programs are the programs for the tests, where every user may read them.
var programs struct{ demo, driver, cache string }

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "mayfly-demo-test-")
		if err == nil {
			defer os.RemoveAll(dir)
			err = build(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func build(dir string) (err error) {
	ctx := context.Background()
	programs.demo, programs.cache = filepath.Join(dir, "demo"), filepath.Join(dir, "cache")
	if programs.driver, err = toolcache.Program(ctx, os.Stderr, dir, "./cmd/mayfly-node"); err != nil {
		return err
	}
	if out, err := exec.Command("go", "build", "-o", programs.demo, ".").CombinedOutput(); err != nil {
		return fmt.Errorf("building the demo: %w\n%s", err, out)
	}
	vault, err := toolcache.Get(ctx, os.Stderr, "vaultd")
	if err != nil {
		return err
	}
	tool := filepath.Join(programs.cache, "tools", filepath.Base(filepath.Dir(vault)))
	if err := os.MkdirAll(tool, 0o755); err != nil {
		return err
	}
	if err := lend(vault, filepath.Join(tool, filepath.Base(vault))); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

// lend links a file to a second name, or copies it on another file system.
func lend(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// command runs the demo in a temporary directory of its own, which must be empty afterwards.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	dir := testkit.Value(os.MkdirTemp("", "demo-"))(t)
	t.Cleanup(func() {
		checkNothingLeft(t, dir)
		testkit.Check(t, os.RemoveAll(dir))
	})
	cmd := exec.Command(programs.demo, append([]string{"--mayfly-node=" + programs.driver}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + programs.cache, "TMPDIR=" + dir, "MAYFLY_CACHE=" + programs.cache, "TERM=xterm"}
	return cmd
}

func checkNothingLeft(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v %v", left, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	testkit.Check(t, err)
	if bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("mounts are left below %s", dir)
	}
	for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ"} {
		files := testkit.Value(filepath.Glob(pattern))(t)
		for _, file := range files {
			// Another user's process, or one that has gone, cannot be read.
			if data, _ := os.ReadFile(file); bytes.Contains(data, []byte(dir)) {
				t.Errorf("a process is left: %s: %q", file, data)
			}
		}
	}
}

// run returns the demo's output and its exit code.
func run(t *testing.T, cmd *exec.Cmd) (string, int) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	if cmd.ProcessState.ExitCode() == 3 {
		t.Skipf("this user cannot mount file systems here:\n%s", out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func TestDemo(t *testing.T) {
	out, code := run(t, command(t))
	checkOutput(t, out, code)
	if os.Geteuid() == 0 && !ordinary() && !strings.Contains(out, "run as root in a mount namespace") {
		t.Errorf("root did not stay root:\n%s", out)
	}
}

func TestDemoAsOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 || ordinary() {
		t.Skip("only the machine's root can become another user")
	}
	cmd := command(t)
	dir := strings.TrimPrefix(cmd.Env[2], "TMPDIR=")
	testkit.Must(t, os.Chown(dir, nobody, nobody))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	probe := exec.Command("go", "env", "GOVERSION")
	probe.Env, probe.SysProcAttr = cmd.Env, cmd.SysProcAttr
	if out, err := probe.CombinedOutput(); err != nil {
		t.Skipf("an ordinary user cannot run go in the source tree: %v: %s", err, out)
	}
	out, code := run(t, cmd)
	checkOutput(t, out, code)
	if !strings.Contains(out, "run as an ordinary user in a user and mount namespace") {
		t.Errorf("not in a user namespace:\n%s", out)
	}
}

func checkOutput(t *testing.T, out string, code int) {
	t.Helper()
	if code != 0 {
		t.Fatalf("exit code %d:\n%s", code, out)
	}
	rest := out
	for _, want := range []string{
		"1. ", "2. ", "kind: SecretProviderClass", "3. ", "FSTYPE   tmpfs", "OPTIONS  ", "nosuid,nodev,noexec",
		"4. ", "-r--------  db/password  correct-horse",
		"5. ", "secret/data/web/db", "by service account shop/web",
		"6. ", "the file holds it: battery-staple", "changed in place",
		"7. ", "rpc error: code = PermissionDenied desc = failed to mount secrets store objects for pod shop/batch-0", "service account name not authorized",
		"8. ", "no mount is left", "Done in ",
	} {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("%q is missing, or not in its place:\n%s", want, out)
		}
		rest = after
	}
	if strings.ContainsRune(out, '\x1b') {
		t.Errorf("colours without a terminal:\n%q", out)
	}
}

func TestDriverThatCannotStart(t *testing.T) {
	cmd := command(t)
	cmd.Args[1] = "--mayfly-node=/bin/false"
	out, code := run(t, cmd)
	if code != 1 || !strings.Contains(out, "mayfly-demo: step 1 (A Vault, and the driver) failed: starting mayfly-node: it ended early") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

// TestInterrupt stops the demo while the volume is published.
func TestInterrupt(t *testing.T) {
	for name, sig := range map[string]syscall.Signal{"SIGINT": syscall.SIGINT, "SIGTERM": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			cmd := command(t)
			stop := &stopper{at: "4. What the pod sees", sig: sig, cmd: cmd}
			cmd.Stdout, cmd.Stderr = stop, stop
			err := cmd.Run()
			out := stop.out.String()
			if cmd.ProcessState.ExitCode() == 3 {
				t.Skipf("this user cannot mount file systems here:\n%s", out)
			}
			if code := cmd.ProcessState.ExitCode(); code != 130 || !strings.Contains(out, "interrupted") || stop.err != nil {
				t.Errorf("%v, %v:\n%s", err, stop.err, out)
			}
		})
	}
}

// stopper sends a signal once some text has been printed.
type stopper struct {
	out bytes.Buffer
	at  string
	sig syscall.Signal
	cmd *exec.Cmd
	err error
}

func (s *stopper) Write(p []byte) (int, error) {
	before := strings.Contains(s.out.String(), s.at)
	s.out.Write(p)
	if !before && strings.Contains(s.out.String(), s.at) {
		s.err = s.cmd.Process.Signal(s.sig)
	}
	return len(p), nil
}

func TestParseMountInfo(t *testing.T) {
	const table = `22 1 0:21 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /a/mount rw,nosuid,nodev,noexec,relatime shared:5 - tmpfs other rw
31 30 0:41 / /a/mount rw,nosuid,nodev,noexec,relatime - tmpfs mayfly rw,size=8k,nr_inodes=9
`
	got := testkit.Value(parseMountInfo(table, "/a/mount"))(t)
	testkit.Must(t, got.check("/a/mount"))
	for _, text := range []string{"", "garbage\n", table[:len(table)/3]} {
		if got, err := parseMountInfo(text, "/b"); err == nil {
			t.Errorf("%q gives %+v", text, got)
		}
	}
}

func TestCheckMount(t *testing.T) {
	good := mountFacts{"/m", "tmpfs", tmpfs.Source, "rw,nosuid,nodev,noexec,size=8k,nr_inodes=9"}
	testkit.Must(t, good.check("/m"))
	for name, change := range map[string]func(m *mountFacts){
		"type":    func(m *mountFacts) { m.fsType = "ext4" },
		"source":  func(m *mountFacts) { m.source = "tmpfs" },
		"options": func(m *mountFacts) { m.options = "rw,nosuid,nodev,size=8k,nr_inodes=9" },
		"limit":   func(m *mountFacts) { m.options = "rw,nosuid,nodev,noexec,sizes=8k,nr_inodes=9" },
	} {
		bad := good
		change(&bad)
		if bad.check("/m") == nil {
			t.Errorf("%s: %+v passes", name, bad)
		}
	}
}

func TestColour(t *testing.T) {
	file := testkit.Value(os.Create(filepath.Join(t.TempDir(), "out")))(t)
	defer file.Close()
	if s := newScreen(file, func(string) string { return "" }); s.colour || s.paint(bold, "x") != "x" {
		t.Error("a file gets colours")
	}
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminal to try: %v", err)
	}
	defer terminal.Close()
	for name, tc := range map[string]struct {
		env  map[string]string
		want bool
	}{
		"plain": {nil, true}, "NO_COLOR": {map[string]string{"NO_COLOR": "1"}, false}, "dumb": {map[string]string{"TERM": "dumb"}, false},
	} {
		if s := newScreen(terminal, func(key string) string { return tc.env[key] }); s.colour != tc.want {
			t.Errorf("%s: colour is %t", name, s.colour)
		}
	}
}
