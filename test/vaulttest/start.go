package vaulttest

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

const (
	// pollInterval is how often an installed vault is asked whether it serves.
	pollInterval = 50 * time.Millisecond
	stopGrace    = 10 * time.Second
)

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
			return proc.Explain(err)
		}
	case <-proc.Ended():
		return proc.Explain(proc.Alive())
	case <-ctx.Done():
		return proc.Explain(context.Cause(ctx))
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
	listen, err := testkit.Address()
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
		return s.proc.Explain(err)
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
	return testkit.Poll(ctx, pollInterval, func() (bool, error) {
		health, err := s.root.Sys().HealthWithContext(ctx)
		if err == nil && health.Initialized && !health.Sealed && key.get() != "" {
			return true, nil
		}
		return false, s.proc.Alive()
	})
}

// keyFinder finds the unseal key in dev mode's output.
type keyFinder struct{ text testkit.Tail }

func (k *keyFinder) Write(p []byte) (int, error) { return k.text.Write(p) }

func (k *keyFinder) get() string {
	_, after, _ := strings.Cut(k.text.String(), "Unseal Key: ")
	line, _, whole := strings.Cut(after, "\n")
	if !whole {
		return ""
	}
	return strings.TrimSpace(line)
}

// process is a child whose standard input stays open as long as this process lives, so that the
// child always ends with it.
type process struct {
	*testkit.Process
	stdin io.Closer
}

// startProcess runs a program. If stdout is a Closer, it is closed when the program has ended.
func startProcess(stdout io.Writer, logs io.Writer, path string, args ...string) (*process, error) {
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = stdout, logs
	cmd.WaitDelay = time.Second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("making its standard input: %w", err)
	}
	p, err := testkit.StartProcess(cmd)
	if err != nil {
		return nil, err
	}
	go func() {
		<-p.Ended()
		if closer, ok := stdout.(io.Closer); ok {
			closer.Close()
		}
	}()
	return &process{p, stdin}, nil
}

// stop asks the process to end, kills it if it does not, and waits.
func (p *process) stop() error {
	p.stdin.Close()
	return p.Stop(stopGrace)
}
