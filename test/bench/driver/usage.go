package driver

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is USER_HZ, which is 100 on every architecture that Go has.
const ticksPerSecond = 100

// Usage is what the driver has used so far.
type Usage struct {
	CPU time.Duration // user and system, to 10 ms
	// Bytes of memory: resident now, resident at most, and resident with
	// shared pages divided among those who share. PSS is 0 if it cannot be
	// read.
	RSS, Peak, PSS int64
}

// Usage reads it from /proc.
func (p *Process) Usage() (Usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Usage{}, fmt.Errorf("measuring mayfly-node: %w", err)
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return Usage{}, fmt.Errorf("measuring mayfly-node: %w", err)
	}
	// Without rights over the process this fails; the rest is still good.
	rollup, _ := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	u := Usage{RSS: kilobytes(status, "VmRSS:"), Peak: kilobytes(status, "VmHWM:"), PSS: kilobytes(rollup, "Pss:")}
	if u.CPU, err = cpuTime(string(stat)); err != nil {
		return Usage{}, err
	}
	if u.RSS == 0 {
		return Usage{}, fmt.Errorf("measuring mayfly-node: no VmRSS in %s/status", dir)
	}
	return u, nil
}

// cpuTime reads utime and stime, the 14th and 15th fields of a stat file. The
// second, the program's name, may hold anything and ends with the last ")".
func cpuTime(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("measuring mayfly-node: its stat file has %d fields after the name", len(fields))
	}
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("measuring mayfly-node: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// kilobytes finds a line such as "VmRSS:  1234 kB", and gives bytes.
func kilobytes(text []byte, key string) int64 {
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == key {
			n, _ := strconv.ParseInt(fields[1], 10, 64)
			return n * 1024
		}
	}
	return 0
}
