package vaulttest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const (
	stopGrace = 10 * time.Second
	tailBytes = 16 << 10 // of a program's output, kept to explain a failure
)

// process is a child whose standard input stays open as long as this process lives, so that the
// child always ends with it.
type process struct {
	cmd   *exec.Cmd
	stdin io.Closer
	logs  *tailBuffer
	ended chan struct{}
	err   error // how it ended; valid once ended is closed
}

// startProcess runs a program. If stdout is a Closer, it is closed when the program has ended.
func startProcess(stdout io.Writer, logs io.Writer, path string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(path, args...), logs: &tailBuffer{}, ended: make(chan struct{})}
	p.cmd.Stdout = stdout
	p.cmd.Stderr = p.logs
	if logs != nil {
		p.cmd.Stderr = io.MultiWriter(p.logs, logs)
	}
	// In a process group of its own: an interrupt from the terminal is for this process only, and
	// Vault must still serve during the clean-up.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = time.Second
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("making its standard input: %w", err)
	}
	p.stdin = stdin
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("running %s: %w", path, err)
	}
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
		if closer, ok := stdout.(io.Closer); ok {
			closer.Close()
		}
	}()
	return p, nil
}

// explain adds the end of the program's output to err.
func (p *process) explain(err error) error {
	if said := p.logs.String(); said != "" {
		return fmt.Errorf("%w; it said:\n%s", err, said)
	}
	return err
}

// stop asks the process to end, kills it if it does not, and waits.
func (p *process) stop() error {
	p.stdin.Close()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping Vault: %w", err)
	}
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-p.ended:
		return nil
	case <-timer.C:
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing Vault: %w", err)
	}
	<-p.ended
	return p.explain(fmt.Errorf("stopping Vault: killed, for it did not end within %s", stopGrace))
}

// tailBuffer stores the last tailBytes written to it.
type tailBuffer struct {
	mu   sync.Mutex
	data []byte
}

func (b *tailBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = append(b.data, p...)
	if over := len(b.data) - tailBytes; over > 0 {
		b.data = append(b.data[:0], b.data[over:]...)
	}
	return len(p), nil
}

func (b *tailBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.data)
}
