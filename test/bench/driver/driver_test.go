package driver

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestCPUTime compares the clock with the kernel's other figures.
func TestCPUTime(t *testing.T) {
	clock := func() time.Duration {
		t.Helper()
		return testkit.Value(cpuTime(os.Getpid()))(t)
	}
	used := func() time.Duration {
		t.Helper()
		var u unix.Rusage
		testkit.Must(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	const work = 20 * time.Millisecond
	began, before := clock(), used()
	for used()-before < work {
	}
	if got, most := clock()-began, used()-before; got < work/2 || got > most+work/2 {
		t.Errorf("%v by the clock, %v in all", got, most)
	}
	gone := exec.Command("true")
	testkit.Must(t, gone.Run())
	if got, err := cpuTime(gone.Process.Pid); err == nil {
		t.Errorf("a process that is gone has used %v", got)
	}
}

func TestKilobytes(t *testing.T) {
	const text = "Name:\tx\nVmRSS:\t    12 kB\nVmHWM:\t 20 kB\n"
	if got := kilobytes([]byte(text), "VmRSS:"); got != 12*1024 {
		t.Errorf("got %d", got)
	}
	if got := kilobytes([]byte(text), "Pss:"); got != 0 {
		t.Errorf("got %d for what is not there", got)
	}
}

// TestEarlyEnd starts a program that is no driver.
func TestEarlyEnd(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	testkit.Must(t, os.WriteFile(program, []byte("#!/bin/sh\necho no such flag >&2\nexit 2\n"), 0o755))
	_, err := Start(t.Context(), Options{Binary: program, Dir: t.TempDir()})
	testkit.Says(t, err, "ended early: exit status 2", "no such flag")
}
