package testkit

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// closedStdout is set in the process that WithClosedStdout starts.
const closedStdout = "MAYFLY_TEST_CLOSED_STDOUT"

// WithClosedStdout runs the calling test in a process of its own, whose standard output nobody reads.
// It fails if that process does not survive a write to it after prepare.
func WithClosedStdout(t *testing.T, prepare func()) {
	t.Helper()
	if os.Getenv(closedStdout) != "" {
		prepare()
		if _, err := os.Stdout.WriteString("lost\n"); !errors.Is(err, syscall.EPIPE) {
			os.Exit(3)
		}
		os.Exit(0)
	}
	self, err := os.Executable()
	Must(t, err)
	r, w, err := os.Pipe()
	Must(t, err)
	Must(t, r.Close())
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$")
	cmd.Env, cmd.Stdout = append(os.Environ(), closedStdout+"=1"), w
	err = cmd.Run()
	Must(t, w.Close())
	if err != nil {
		t.Errorf("a process whose standard output is closed: %v", err)
	}
}
