// Package driver runs mayfly-node as a process of its own, for the demo and the benchmark: it
// builds it, starts it and waits until it is ready, stops or kills it, and measures its resource
// use.
package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const (
	startTimeout = 20 * time.Second
	stopGrace    = 10 * time.Second
	pollInterval = time.Millisecond
)

// Options say how to run the driver. Binary and Dir are needed.
type Options struct {
	Binary string
	// Dir is where the CSI socket and the state go.
	Dir string
	// Args are further flags.
	Args []string
	// Env are further variables, as NAME=VALUE.
	Env []string
	// Logs receives the driver's log.
	Logs io.Writer
}

// Process is a running driver.
type Process struct {
	// Ready is the time from the start of the process until Probe reported ready.
	Ready  time.Duration
	Socket string

	*testkit.Process
}

// Socket is where a driver that is started in dir serves CSI.
func Socket(dir string) string { return filepath.Join(dir, "csi.sock") }

// Start starts the driver and waits until it is ready. ctx bounds the start only. The driver ends
// with this process, even if that is killed.
func Start(ctx context.Context, o Options) (_ *Process, err error) {
	p := &Process{Socket: Socket(o.Dir)}
	cmd := exec.Command(o.Binary, append([]string{
		"--endpoint=unix://" + p.Socket, "--state-dir=" + filepath.Join(o.Dir, "state"),
		"--nodeid=node-a", "--health-addr=", "--metrics-addr=",
	}, o.Args...)...)
	// This process's environment must not lead to another Vault or cluster.
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + o.Dir}, o.Env...)
	cmd.Stderr = o.Logs
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	if p.Process, err = testkit.StartProcess(cmd); err != nil {
		return nil, err
	}
	if err := p.waitReady(ctx); err != nil {
		return nil, errors.Join(p.Explain(fmt.Errorf("starting mayfly-node: %w", err)), p.Kill())
	}
	p.Ready = time.Since(began)
	return p, nil
}

// waitReady asks until Probe answers that the driver is ready.
func (p *Process) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready within %s", startTimeout))
	defer cancel()
	return testkit.Poll(ctx, pollInterval, func() (bool, error) {
		if err := p.Process.Alive(); err != nil {
			return false, err
		}
		conn, err := net.Dial("unix", p.Socket)
		if err != nil {
			return false, nil
		}
		_ = conn.Close()
		return p.probe(ctx), nil
	})
}

// probe makes a connection of its own: gRPC's growing pauses between attempts to connect would be
// part of the measurement.
func (p *Process) probe(ctx context.Context) bool {
	k, err := kubelet.Dial("", p.Socket)
	if err != nil {
		return false
	}
	defer func() { _ = k.Close() }()
	answer, err := k.Identity.Probe(ctx, &csi.ProbeRequest{})
	return err == nil && answer.GetReady().GetValue()
}

// Alive is nil as long as the driver runs.
func (p *Process) Alive() error {
	if err := p.Process.Alive(); err != nil {
		return p.Explain(fmt.Errorf("mayfly-node: %w", err))
	}
	return nil
}

// Stop asks the driver to end and waits. It returns an error if the driver fails or must be killed.
func (p *Process) Stop() error {
	if err := p.Process.Stop(stopGrace); err != nil {
		return err
	}
	if err := p.Err(); err != nil {
		return p.Explain(fmt.Errorf("stopping mayfly-node: %w", err))
	}
	return nil
}

// Usage is what the driver has used so far.
type Usage struct {
	CPU time.Duration // user and system
	// In bytes: resident memory now, its peak, and resident memory with shared pages divided among
	// the processes that share them. PSS is 0 if it cannot be read.
	RSS, Peak, PSS int64
}

// Usage asks the kernel.
func (p *Process) Usage() (Usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(p.Pid()))
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return Usage{}, fmt.Errorf("measuring mayfly-node: %w", err)
	}
	// Without rights over the process this fails; the rest is still good.
	rollup, _ := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	u := Usage{RSS: kilobytes(status, "VmRSS:"), Peak: kilobytes(status, "VmHWM:"), PSS: kilobytes(rollup, "Pss:")}
	if u.CPU, err = cpuTime(p.Pid()); err != nil {
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
