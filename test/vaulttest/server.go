// Package vaulttest starts real Vault servers, each with an audit log of its own, and configures
// them: for tests through New, for programs such as the demo and the benchmark through Start.
package vaulttest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// startTimeout bounds the time to serve, the building of the program not
// included; half a second is usual.
const startTimeout = 30 * time.Second

// Options say what kind of Vault to start; the zero value is a plain one.
type Options struct {
	// TLS serves HTTPS with a certificate authority made for this server.
	TLS bool
	// RequireClientCert refuses clients without a certificate; needs TLS.
	RequireClientCert bool
	// AuditFile is the path of the audit log; empty means in the server's scratch directory, which
	// Stop removes.
	AuditFile string
	// RootToken fixes the root token.
	RootToken string
	// PreferInstalled uses the "vault" on PATH, in dev mode, if there is one. It has no TLS, so the
	// option has no effect together with TLS.
	PreferInstalled bool
	// Progress receives a line if the program must be built first.
	Progress io.Writer
	// Logs receives Vault's log.
	Logs io.Writer
}

// Server is a running Vault. Its fields are for reading.
type Server struct {
	Address   string
	RootToken string
	UnsealKey string
	AuditFile string
	// Of a server with TLS.
	CAFile, ClientCertFile, ClientKeyFile string
	// Installed says that this is the machine's own vault, not the built one.
	Installed bool

	scratch string
	proc    *process
	root    *api.Client
	stop    sync.Once
	stopErr error
}

// Start starts a Vault that is initialised and unsealed and audits to a file.
// ctx bounds the start only; the server lives until Stop, or at the longest as
// long as this process.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.RequireClientCert && !opts.TLS {
		return nil, errors.New("starting Vault: RequireClientCert needs TLS")
	}
	installed := ""
	if opts.PreferInstalled && !opts.TLS {
		installed, _ = exec.LookPath("vault") // none is no error
	}
	built := ""
	if installed == "" {
		var err error
		if built, err = toolcache.Get(ctx, opts.Progress, "vaultd"); err != nil {
			return nil, fmt.Errorf("starting Vault: %w", err)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("no answer within %s", startTimeout))
	defer cancel()
	s, err := newServer(opts)
	if err != nil {
		return nil, fmt.Errorf("starting Vault: %w", err)
	}
	if installed != "" {
		err = s.startInstalled(ctx, installed, opts)
	} else {
		err = s.startBuilt(ctx, built, opts)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting Vault: %w", err), s.Stop())
	}
	return s, nil
}

func newServer(opts Options) (*Server, error) {
	scratch, err := os.MkdirTemp("", "mayfly-vault-")
	if err != nil {
		return nil, fmt.Errorf("making a scratch directory: %w", err)
	}
	s := &Server{scratch: scratch, AuditFile: opts.AuditFile}
	if s.AuditFile == "" {
		s.AuditFile = filepath.Join(scratch, "audit.log")
	}
	if s.AuditFile, err = filepath.Abs(s.AuditFile); err != nil {
		return nil, errors.Join(fmt.Errorf("resolving the audit file: %w", err), os.RemoveAll(scratch))
	}
	return s, nil
}

// Stop stops the server, waits for its end and removes its files, except an audit file that Options
// named.
func (s *Server) Stop() error {
	s.stop.Do(func() {
		if s.proc != nil {
			s.stopErr = s.proc.stop()
		}
		s.stopErr = errors.Join(s.stopErr, os.RemoveAll(s.scratch))
	})
	return s.stopErr
}

// Client returns a new client with the root token. It does not retry, and reads nothing from the
// environment.
func (s *Server) Client() *api.Client {
	client, err := s.newClient()
	if err != nil {
		// The same client was made when the server started.
		panic(fmt.Sprintf("vaulttest: making a client: %v", err))
	}
	return client
}

func (s *Server) newClient() (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	config.Address = s.Address
	config.AgentAddress = ""
	config.MaxRetries = 0
	if s.CAFile != "" {
		err := config.ConfigureTLS(&api.TLSConfig{
			CACert: s.CAFile, ClientCert: s.ClientCertFile, ClientKey: s.ClientKeyFile,
		})
		if err != nil {
			return nil, err
		}
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	client.ClearNamespace()
	client.SetToken(s.RootToken)
	return client, nil
}

// Seal seals the server: it answers 503 until Unseal.
func (s *Server) Seal(ctx context.Context) error {
	if err := s.root.Sys().SealWithContext(ctx); err != nil {
		return fmt.Errorf("sealing Vault: %w", err)
	}
	return nil
}

// Unseal undoes Seal.
func (s *Server) Unseal(ctx context.Context) error {
	status, err := s.root.Sys().UnsealWithContext(ctx, s.UnsealKey)
	if err != nil {
		return fmt.Errorf("unsealing Vault: %w", err)
	}
	if status.Sealed {
		return errors.New("unsealing Vault: still sealed")
	}
	return nil
}

// New starts a Vault for a test, which stops it. Tests without special needs may share one that
// TestMain starts with Start.
func New(t testing.TB, opts Options) *Server {
	t.Helper()
	if opts.Progress == nil {
		opts.Progress = os.Stderr
	}
	s := testkit.Value(Start(t.Context(), opts))(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Vault said:\n%s", s.proc.Said())
		}
		testkit.Check(t, s.Stop())
	})
	return s
}
