package node

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestIsStatic(t *testing.T) {
	if isStatic("/proc/self/status") {
		t.Error("a text is a static program")
	}
	self, err := os.Executable()
	testkit.Must(t, err)
	file, err := os.ReadFile(self)
	testkit.Must(t, err)
	if want := !bytes.Contains(file[:4096], []byte("/ld-linux")); isStatic(self) != want {
		t.Errorf("isStatic of this test is %v, want %v", !want, want)
	}
}

func TestDenyServices(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy-rc.d")
	undo, err := denyServices(policy)
	testkit.Must(t, err)
	var exit *exec.ExitError
	if err := exec.Command(policy, "etcd", "start").Run(); !errors.As(err, &exit) || exit.ExitCode() != 101 {
		t.Errorf("the policy ends with %v, want exit status 101", err)
	}
	again, err := denyServices(policy)
	testkit.Must(t, err)
	testkit.Must(t, again())
	if _, err := os.Stat(policy); err != nil {
		t.Errorf("the policy that existed before: %v", err)
	}
	testkit.Must(t, undo())
	if _, err := os.Stat(policy); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("our policy stays: %v", err)
	}
}
