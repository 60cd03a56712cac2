package testkit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is a running program.
type Process struct {
	name  string
	cmd   *exec.Cmd
	said  *Tail
	ended chan struct{}
	err   error // how it ended; valid once ended is closed
}

// StartProcess starts a program. It keeps the end of what the program writes, to explain a failure.
// What goes to the command's Stderr, if it has one, is kept too, but not from a file; what goes to its
// Stdout is not.
//
// The program is in a process group of its own: an interrupt from the terminal is for this process
// only, and the program must still work during the clean-up.
func StartProcess(cmd *exec.Cmd) (*Process, error) {
	p := &Process{name: filepath.Base(cmd.Path), cmd: cmd, said: &Tail{}, ended: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = p.said
	}
	switch to := cmd.Stderr.(type) {
	case nil:
		cmd.Stderr = p.said
	case *os.File:
	default:
		cmd.Stderr = io.MultiWriter(p.said, to)
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("running %s: %w", p.name, err)
	}
	go func() {
		defer close(p.ended)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// NewProcess is StartProcess for a test, at whose end it kills the program.
func NewProcess(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := Value(StartProcess(cmd))(t)
	t.Cleanup(func() {
		Check(t, p.Kill())
		if t.Failed() {
			t.Logf("%s said:\n%s", p.name, p.said)
		}
	})
	return p
}

// Pid is the id of the process.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Ended is closed when the program has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Err is how a program that has ended did so; nil for a success.
func (p *Process) Err() error { return p.err }

// Alive is nil as long as the program runs, and otherwise says how it ended.
func (p *Process) Alive() error {
	select {
	case <-p.ended:
	default:
		return nil
	}
	if p.err == nil {
		return errors.New("it ended early: with success")
	}
	return fmt.Errorf("it ended early: %w", p.err)
}

// Stop asks the program to end, waits, and kills it if it does not end in time.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.ended:
		return nil
	case <-timer.C:
		return errors.Join(p.Explain(fmt.Errorf("stopping %s: it did not end within %s", p.name, grace)), p.Kill())
	}
}

// Kill kills the program, as kill -9 does, and waits.
func (p *Process) Kill() error {
	err := p.signal(syscall.SIGKILL)
	if err == nil {
		<-p.ended
	}
	return err
}

func (p *Process) signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("sending %s to %s: %w", s, p.name, err)
	}
	return nil
}

// Said is the end of what the program wrote.
func (p *Process) Said() string { return p.said.String() }

// Explain adds that to an error.
func (p *Process) Explain(err error) error {
	if said := p.Said(); said != "" {
		return fmt.Errorf("%w; its log ends with:\n%s", err, said)
	}
	return err
}

const tailBytes = 16 << 10

// Tail keeps the last bytes written to it. Its zero value is ready to use.
type Tail struct {
	mu   sync.Mutex
	data []byte
}

// Write adds to the text, and forgets its beginning.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.data = append(t.data, p...)
	if over := len(t.data) - tailBytes; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

// String is the end of the text.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.data)
}
