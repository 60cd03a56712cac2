package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machine describes the machine and the versions of the measurement.
type machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Memory int64  `json:"memoryBytes"`
	Kernel string `json:"kernel"`
	Arch   string `json:"arch"`
	Go     string `json:"go"`
	Vault  string `json:"vault"`
	Mayfly string `json:"mayfly"`
	// Load is the load average of the last minute before the start: much more
	// than none means that others used the machine too.
	Load string `json:"loadAverage"`
}

func describe(ctx context.Context, w *world) (machine, error) {
	m := machine{Cores: runtime.NumCPU(), Arch: runtime.GOARCH, Go: runtime.Version(), CPU: "unknown"}
	// Not every architecture names its CPU, and none of this is worth failing.
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	if name := value(cpuinfo, "model name"); name != "" {
		m.CPU = name
	}
	meminfo, _ := os.ReadFile("/proc/meminfo")
	kilobytes, _ := strconv.ParseInt(strings.TrimSuffix(value(meminfo, "MemTotal"), " kB"), 10, 64)
	m.Memory = kilobytes * 1024
	load, _ := os.ReadFile("/proc/loadavg")
	m.Load, _, _ = strings.Cut(string(load), " ")
	var uname unix.Utsname
	if err := unix.Uname(&uname); err == nil {
		m.Kernel = unix.ByteSliceToString(uname.Release[:])
	}
	health, err := w.vault.Client().Sys().HealthWithContext(ctx)
	if err != nil {
		return m, fmt.Errorf("asking Vault for its version: %w", err)
	}
	m.Vault = health.Version
	out, err := exec.CommandContext(ctx, w.binary, "--version").Output()
	if err != nil {
		return m, fmt.Errorf("asking mayfly-node for its version: %w", err)
	}
	if fields := strings.Fields(string(out)); len(fields) > 1 {
		m.Mayfly = fields[1]
	}
	return m, nil
}

// value finds a line such as "key : value".
func value(text []byte, key string) string {
	for line := range strings.Lines(string(text)) {
		name, v, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %.0f GB, Linux %s, %s, %s, Vault %s, mayfly-node %s, load average %s at the start",
		m.CPU, m.Cores, float64(m.Memory)/1e9, m.Kernel, m.Arch, m.Go, m.Vault, m.Mayfly, m.Load)
}
