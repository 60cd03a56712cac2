package controlplane

import (
	"context"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

const (
	stopGrace    = 20 * time.Second
	pollInterval = 200 * time.Millisecond
	logTail      = 6 << 10
)

// Process is a program of a test. It ends with the test at the latest.
type Process struct {
	Name string
	// Log is the file of its output.
	Log string

	t       T
	command func() *exec.Cmd
	cmd     *exec.Cmd
	process *testkit.Process // nil before the first start
}

// NewProcess prepares a process; Start starts it, as often as it is stopped.
func NewProcess(t T, name, log string, command func() *exec.Cmd) *Process {
	p := &Process{Name: name, Log: log, t: t, command: command}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("the end of %s:\n%s", log, p.Tail())
		}
	})
	return p
}

// Start starts the program.
func (p *Process) Start() {
	p.t.Helper()
	log := testkit.Value(os.OpenFile(p.Log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600))(p.t)
	defer log.Close()
	cmd := p.command()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p.cmd, p.process = cmd, testkit.Value(testkit.StartProcess(cmd))(p.t)
}

// Pid is the id of the running process.
func (p *Process) Pid() int { return p.process.Pid() }

// Running reports whether the program runs.
func (p *Process) Running() bool { return p.process != nil && p.process.Alive() == nil }

// ExitCode is that of a process which has ended; -1 after a signal.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }

// Kill is kill -9.
func (p *Process) Kill() {
	if p.process != nil {
		_ = p.process.Kill()
	}
}

// Stop asks the program to end, and kills it if it does not.
func (p *Process) Stop() {
	p.t.Helper()
	if !p.Running() {
		return
	}
	if err := p.process.Stop(stopGrace); err != nil {
		p.t.Errorf("%s: %v", p.Name, err)
	}
}

// Tail is the end of the program's output.
func (p *Process) Tail() string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-logTail):])
}

// Await waits until try succeeds; after the time the test fails with its last error.
func Await(t T, within time.Duration, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	var last error
	err := testkit.Poll(ctx, pollInterval, func() (bool, error) {
		last = try(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("waiting %s for %s: %v", within, what, last)
	}
}

// await is Await for something that a process does.
func (p *Process) await(within time.Duration, what string, try func(context.Context) error) {
	p.t.Helper()
	Await(p.t, within, what, func(ctx context.Context) error {
		if !p.Running() {
			p.t.Fatalf("%s has ended while waiting for %s:\n%s", p.Name, what, p.Tail())
		}
		return try(ctx)
	})
}
