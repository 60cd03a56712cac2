package node

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

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
