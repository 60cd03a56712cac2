package driver

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what the driver has used so far.
type Usage struct {
	CPU time.Duration // user and system
	// In bytes: resident memory now, its peak, and resident memory with shared pages divided among
	// the processes that share them. PSS is 0 if it cannot be read.
	RSS, Peak, PSS int64
}

// Usage asks the kernel.
func (p *Process) Usage() (Usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return Usage{}, fmt.Errorf("measuring mayfly-node: %w", err)
	}
	// Without rights over the process this fails; the rest is still good.
	rollup, _ := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	u := Usage{RSS: kilobytes(status, "VmRSS:"), Peak: kilobytes(status, "VmHWM:"), PSS: kilobytes(rollup, "Pss:")}
	if u.CPU, err = cpuTime(p.cmd.Process.Pid); err != nil {
		return Usage{}, fmt.Errorf("measuring mayfly-node: %w", err)
	}
	if u.RSS == 0 {
		return Usage{}, fmt.Errorf("measuring mayfly-node: no VmRSS in %s/status", dir)
	}
	return u, nil
}

// cpuTime reads the process's own clock. /proc rounds to 10 ms, a tenth of a round of publishes.
// The id is that of clock_getcpuclockid(3): the process's number, inverted, before three bits that
// select the clock.
func cpuTime(pid int) (time.Duration, error) {
	const scheduled = 2 // user and system, to the nanosecond
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduled), &t); err != nil { //nolint:gosec // a process number has 22 bits at the most
		return 0, err
	}
	return time.Duration(t.Nano()), nil
}

// kilobytes finds a line such as "VmRSS:  1234 kB", and returns bytes.
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
