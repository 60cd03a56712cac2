package driver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCPUTime(t *testing.T) {
	const stat = "4 (a b) c) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 9 0 100 1 1"
	got, err := cpuTime(stat)
	if err != nil || got != 1750*time.Millisecond {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", "4 (x) S 1 2", "4 (x) S 1 2 3 4 5 6 7 8 9 10 a b 0"} {
		if got, err := cpuTime(bad); err == nil {
			t.Errorf("%q gives %v", bad, got)
		}
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
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho no such flag >&2\nexit 2\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := Start(t.Context(), Options{Binary: program, Dir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "ended early: exit status 2") || !strings.Contains(err.Error(), "no such flag") {
		t.Errorf("got %v", err)
	}
}

func TestTail(t *testing.T) {
	var x tail
	for range 3 {
		_, _ = x.Write([]byte(strings.Repeat("a", tailBytes-1) + "b"))
	}
	if got := x.String(); len(got) != tailBytes || !strings.HasSuffix(got, "ab") {
		t.Errorf("%d bytes", len(got))
	}
}
