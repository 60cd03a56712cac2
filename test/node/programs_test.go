package node

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestIsStatic(t *testing.T) {
	if isStatic("/proc/self/status") {
		t.Error("a text is a static program")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	if want := !bytes.Contains(file[:4096], []byte("/ld-linux")); isStatic(self) != want {
		t.Errorf("isStatic of this test is %v, want %v", !want, want)
	}
}

func TestDenyServices(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy-rc.d")
	undo, err := denyServices(policy)
	if err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := exec.Command(policy, "etcd", "start").Run(); !errors.As(err, &exit) || exit.ExitCode() != 101 {
		t.Errorf("the policy says %v, want exit status 101", err)
	}
	again, err := denyServices(policy)
	if err != nil {
		t.Fatal(err)
	}
	if err := again(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(policy); err != nil {
		t.Errorf("somebody else's policy: %v", err)
	}
	if err := undo(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(policy); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("our policy stays: %v", err)
	}
}
