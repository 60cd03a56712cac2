package vaulttest

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/vault/api"
)

// pollInterval is how often an installed vault is asked whether it serves.
const pollInterval = 50 * time.Millisecond

// startBuilt runs vaultd and reads where it is from its first line.
func (s *Server) startBuilt(ctx context.Context, path string, opts Options) error {
	args := []string{"--exit-with-stdin", "--audit-file", s.AuditFile}
	if opts.RootToken != "" {
		args = append(args, "--root-token", opts.RootToken)
	}
	if opts.TLS {
		args = append(args, "--tls-dir", filepath.Join(s.scratch, "tls"))
	}
	if opts.RequireClientCert {
		args = append(args, "--tls-require-client-cert")
	}
	reader, writer := io.Pipe()
	proc, err := startProcess(writer, opts.Logs, path, args...)
	if err != nil {
		return err
	}
	s.proc = proc
	lines := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(reader).ReadString('\n')
		lines <- line
		_, _ = io.Copy(io.Discard, reader) // until the process has ended
	}()
	select {
	case line := <-lines:
		if err := s.readGreeting(line); err != nil {
			return proc.explain(err)
		}
	case <-proc.ended:
		return proc.explain(fmt.Errorf("ended early: %w", proc.err))
	case <-ctx.Done():
		return proc.explain(context.Cause(ctx))
	}
	s.root, err = s.newClient()
	return err
}

func (s *Server) readGreeting(line string) error {
	var greeting struct {
		Address, RootToken, UnsealKey, CAFile, ClientCertFile, ClientKeyFile string
	}
	if err := json.Unmarshal([]byte(line), &greeting); err != nil {
		return fmt.Errorf("reading its first line: %w", err)
	}
	s.Address, s.RootToken, s.UnsealKey = greeting.Address, greeting.RootToken, greeting.UnsealKey
	s.CAFile, s.ClientCertFile, s.ClientKeyFile = greeting.CAFile, greeting.ClientCertFile, greeting.ClientKeyFile
	return nil
}

// startInstalled runs the machine's own vault in dev mode.
func (s *Server) startInstalled(ctx context.Context, path string, opts Options) error {
	listen, err := freePort(ctx)
	if err != nil {
		return err
	}
	s.Installed, s.Address, s.RootToken = true, "http://"+listen, opts.RootToken
	if s.RootToken == "" {
		s.RootToken = rand.Text()
	}
	var key keyFinder
	s.proc, err = startProcess(&key, opts.Logs, path, "server", "-dev", "-dev-no-store-token",
		"-dev-root-token-id="+s.RootToken, "-dev-listen-address="+listen)
	if err != nil {
		return err
	}
	if s.root, err = s.newClient(); err != nil {
		return err
	}
	if err := s.waitServing(ctx, &key); err != nil {
		return s.proc.explain(err)
	}
	s.UnsealKey = key.get()
	// Dev mode comes with an engine there; the built Vault comes with none.
	if err := s.root.Sys().UnmountWithContext(ctx, "secret"); err != nil {
		return fmt.Errorf("unmounting secret/: %w", err)
	}
	err = s.root.Sys().EnableAuditWithOptionsWithContext(ctx, "file", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": s.AuditFile},
	})
	if err != nil {
		return fmt.Errorf("enabling the audit device: %w", err)
	}
	return nil
}

// waitServing polls, because dev mode does not report when it is ready; it prints the unseal key at
// about the same time.
func (s *Server) waitServing(ctx context.Context, key *keyFinder) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		health, err := s.root.Sys().HealthWithContext(ctx)
		if err == nil && health.Initialized && !health.Sealed && key.get() != "" {
			return nil
		}
		select {
		case <-s.proc.ended:
			return fmt.Errorf("ended early: %w", s.proc.err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

func freePort(ctx context.Context) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("finding a free port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}

// keyFinder finds the unseal key in dev mode's output.
type keyFinder struct{ text tailBuffer }

func (k *keyFinder) Write(p []byte) (int, error) { return k.text.Write(p) }

func (k *keyFinder) get() string {
	_, after, _ := strings.Cut(k.text.String(), "Unseal Key: ")
	line, _, whole := strings.Cut(after, "\n")
	if !whole {
		return ""
	}
	return strings.TrimSpace(line)
}

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
