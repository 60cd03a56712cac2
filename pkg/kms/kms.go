package kms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/health"
	"github.com/mayfly-csi/mayfly/pkg/kms/audit"
	"github.com/mayfly-csi/mayfly/pkg/kms/config"
	"github.com/mayfly-csi/mayfly/pkg/kms/plugin"
	"github.com/mayfly-csi/mayfly/pkg/kms/server"
	"github.com/mayfly-csi/mayfly/pkg/kms/telemetry"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

const (
	// closeTime bounds revoking the login at the stop, and flushTime the writing of audit lines.
	closeTime = time.Second
	flushTime = 5 * time.Second
)

// Server is mayfly-kms serve.
type Server struct {
	config     config.Config
	log        *slog.Logger
	connection *Connection
	metrics    *telemetry.Metrics
	plugin     *plugin.Plugin
	audit      *audit.Log
	server     *server.Server
	serving    atomic.Bool
}

// New builds a server. It makes no request, and starts nothing.
func New(c config.Config, version string, stdout io.Writer, log *slog.Logger) (*Server, error) {
	s := &Server{config: c, log: log, metrics: telemetry.New(version)}
	var err error
	if s.connection, err = Connect(c, s.metrics, log); err != nil {
		return nil, err
	}
	node, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("finding the node's name: %w", err)
	}
	if s.audit, err = audit.New(c.Serve.AuditLog, stdout, node, s.metrics, log); err != nil {
		return nil, fmt.Errorf("--audit-log: %w", err)
	}
	s.plugin = plugin.New(c, s.connection.Transit, s.connection.Session, log)
	s.metrics.Watch(s.plugin.Condition, c.Timing.OutageLimit)
	s.server = server.New(s.plugin, server.Options{
		Socket: server.Socket{Path: c.Serve.Socket, Group: c.Serve.SocketGroup}, AllowedUIDs: c.Serve.AllowedUIDs,
		CallTimeout: c.Timing.CallTimeout, Meter: s.metrics, Audit: s.audit.Observe, Logger: log,
	})
	return s, nil
}

// Condition is the plugin's state.
func (s *Server) Condition() plugin.Condition { return s.plugin.Condition() }

// Run serves until ctx ends. It creates the socket before the first request to Vault. The audit log
// ends last, so that it has all calls.
func (s *Server) Run(ctx context.Context) error {
	lines, stopLines := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLines()
	written := make(chan error, 1)
	go func() { written <- s.audit.Run(lines) }()

	g, ctx := errgroup.WithContext(ctx)
	listening := make(chan struct{})
	g.Go(func() error {
		return s.server.Run(ctx, func() {
			s.serving.Store(true)
			s.log.Info("serving KMS v2", logkey.Socket, s.config.Serve.Socket, logkey.Addresses, len(s.config.Vault.Addresses), logkey.Key, s.config.Transit.Key)
			if err := notifyReady(os.Getenv("NOTIFY_SOCKET")); err != nil {
				s.log.Warn("notifying systemd of the socket failed", logkey.Error, err)
			}
			close(listening)
		})
	})
	g.Go(func() error {
		select {
		case <-listening:
			return s.plugin.Run(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error { trimMemory(ctx, func() bool { return s.plugin.Condition().ID != "" }, s.log); return nil })
	for addr, mux := range s.handlers() {
		g.Go(func() error { serveHTTP(ctx, addr, mux, s.log); return nil })
	}
	err := g.Wait()
	stopLines()
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	if failure := s.connection.Close(end); failure != nil {
		s.log.Info("revoking the login at Vault failed", logkey.Error, failure)
	}
	select {
	case failure := <-written:
		return errors.Join(err, failure)
	case <-time.After(flushTime):
		s.log.Error("the audit log takes no more lines; those that wait are lost", logkey.Path, s.config.Serve.AuditLog)
		return err
	}
}

// handlers returns the HTTP handlers by address: health and metrics may share one.
func (s *Server) handlers() map[string]*http.ServeMux {
	muxes := map[string]*http.ServeMux{}
	mux := func(addr string) *http.ServeMux {
		if muxes[addr] == nil {
			muxes[addr] = http.NewServeMux()
		}
		return muxes[addr]
	}
	if addr := s.config.Serve.HealthAddr; addr != "" {
		serving := health.Check{Name: "socket", Do: func(context.Context) error {
			if !s.serving.Load() {
				return errors.New("the socket does not take calls yet")
			}
			return nil
		}}
		mux(addr).Handle("GET /healthz", health.Checks{serving})
		mux(addr).Handle("GET /readyz", health.Checks{serving, {Name: "key", Do: s.ready}})
	}
	if addr := s.config.Serve.MetricsAddr; addr != "" {
		mux(addr).Handle("GET /metrics", s.metrics.Handler())
	}
	return muxes
}

// ready reads memory only: a probe makes no request to Vault.
func (s *Server) ready(context.Context) error {
	id, healthz, err := s.plugin.Status()
	switch {
	case err != nil:
		return err
	case healthz != "ok":
		return fault.New(fault.Unavailable, "%s; key id %s stays", healthz, id)
	}
	return nil
}
