package kmsrig

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	kmsv2 "k8s.io/kms/apis/v2"

	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// Process is the real mayfly-kms serve, as a process of its own.
type Process struct {
	Socket string
	Client kmsv2.KeyManagementServiceClient
	Stderr *Log

	t    testing.TB
	cmd  *exec.Cmd
	conn *grpc.ClientConn
}

// Binary builds mayfly-kms, once.
func Binary(t testing.TB) string {
	t.Helper()
	root, err := toolcache.ModuleRoot()
	testkit.Must(t, err)
	path, err := toolcache.Build(t.Context(), os.Stderr, root, "./cmd/mayfly-kms", "mayfly-kms", "-s", "-w")
	testkit.Must(t, err)
	return path
}

// StartProcess runs the binary with the settings in a file, and waits until it is healthy. The end
// of the test kills it.
func (r *Rig) StartProcess(more ...string) *Process {
	r.t.Helper()
	args := r.Args(more...)
	var file strings.Builder
	p := &Process{t: r.t, Stderr: &Log{}}
	for _, arg := range args {
		name, value, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if name == "listen" {
			p.Socket = strings.TrimPrefix(value, "unix://")
		}
		parts := strings.Split(name, "-")
		for i := range parts[1:] {
			parts[i+1] = strings.ToUpper(parts[i+1][:1]) + parts[i+1][1:]
		}
		fmt.Fprintf(&file, "%s: %q\n", strings.Join(parts, ""), value)
	}
	p.cmd = exec.Command(Binary(r.t), "serve", "--config="+r.WriteFile("config.yaml", file.String()))
	p.cmd.Stderr, p.cmd.Stdout = p.Stderr, p.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	testkit.Must(r.t, p.cmd.Start())
	r.t.Cleanup(p.Kill)
	var err error
	if p.conn, err = grpc.NewClient("unix:"+p.Socket, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		r.t.Fatal(err)
	}
	p.Client = kmsv2.NewKeyManagementServiceClient(p.conn)
	testkit.Eventually(r.t, "the process has made its socket", func() bool {
		_, err := os.Stat(p.Socket)
		return err == nil
	})
	return p
}

// Ready waits until the process is healthy.
func (p *Process) Ready() string {
	p.t.Helper()
	var id string
	testkit.Eventually(p.t, "the process is healthy", func() bool {
		s, err := p.Client.Status(p.t.Context(), &kmsv2.StatusRequest{}, grpc.WaitForReady(true))
		id = s.GetKeyId()
		return err == nil && s.GetHealthz() == "ok"
	})
	return id
}

// Kill kills the process with kill -9, which leaves its socket.
func (p *Process) Kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	p.cmd = nil
	_ = p.conn.Close()
	if p.t.Failed() {
		p.t.Logf("mayfly-kms said:\n%s", p.Stderr)
	}
}

// Terminate ends the process as its supervisor does, and returns its exit code.
func (p *Process) Terminate() int {
	p.t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { _ = p.cmd.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		p.t.Fatal("mayfly-kms does not end")
	}
	code := p.cmd.ProcessState.ExitCode()
	p.cmd = nil
	return code
}

// Field is a line of the process's status in /proc, such as VmRSS.
func (p *Process) Field(name string) string {
	p.t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	testkit.Must(p.t, err)
	for line := range bytes.Lines(data) {
		if value, ok := strings.CutPrefix(string(line), name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	p.t.Fatalf("no %s in the process's status", name)
	return ""
}

// Bytes is a field in kB as bytes.
func (p *Process) Bytes(name string) int64 {
	p.t.Helper()
	kb, err := strconv.ParseInt(strings.TrimSuffix(p.Field(name), " kB"), 10, 64)
	testkit.Must(p.t, err)
	return kb << 10
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }
