package csi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// Server serves gRPC services on one unix socket.
type Server struct {
	socket string
	grace  time.Duration
	grpc   *grpc.Server
	log    *slog.Logger
}

// Options are common to every server of the driver.
type Options struct {
	Logger *slog.Logger
	// Observe receives every call; may be nil.
	Observe Observe
	// Grace is how long running calls may go on after the server is told to stop.
	Grace time.Duration
}

// NewServer makes the CSI server for an endpoint: unix:///path, unix:/path or
// a path. It starts nothing.
func NewServer(endpoint string, id *Identity, node *Node, o Options) (*Server, error) {
	s, err := newServer(endpoint, o)
	if err != nil {
		return nil, err
	}
	csipb.RegisterIdentityServer(s.grpc, id)
	csipb.RegisterNodeServer(s.grpc, node)
	return s, nil
}

func newServer(endpoint string, o Options) (*Server, error) {
	socket, err := ParseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(around(o)), grpc.NumStreamWorkers(workers),
		grpc.ReadBufferSize(bufferSize), grpc.WriteBufferSize(bufferSize))
	return &Server{socket, o.Grace, server, o.Logger}, nil
}

// bufferSize fits most calls, in bytes. Kubelet opens a connection for each call, and gRPC would
// allocate 96 KiB for it.
const bufferSize = 4 << 10

// workers is how many goroutines serve calls one after the other. More calls at once have
// goroutines of their own, which take a tenth of the time of a republish to grow their
// stacks.
const workers = 4

// maxSocket is the size of sun_path less the terminating NUL.
const maxSocket = 107

// ParseEndpoint returns the socket's path.
func ParseEndpoint(endpoint string) (string, error) {
	path := endpoint
	if rest, ok := strings.CutPrefix(endpoint, "unix:"); ok {
		path = strings.TrimPrefix(rest, "//")
	} else if strings.Contains(endpoint, "://") {
		return "", fmt.Errorf("endpoint %q: only unix sockets are supported, such as unix:///csi/csi.sock", endpoint)
	}
	switch {
	case !filepath.IsAbs(path):
		return "", fmt.Errorf("endpoint %q: the path must be absolute, such as unix:///csi/csi.sock", endpoint)
	case len(path) > maxSocket:
		return "", fmt.Errorf("endpoint %q: the path is %d bytes long, the kernel's limit for a socket is %d", endpoint, len(path), maxSocket)
	}
	return filepath.Clean(path), nil
}

// Run listens until ctx ends, then waits for running calls to finish. It calls ready once the
// socket accepts calls.
func (s *Server) Run(ctx context.Context, ready func()) error {
	listener, err := listen(s.socket)
	if err != nil {
		return err
	}
	ready()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := s.grpc.Serve(listener); !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		s.stop()
		return nil
	})
	return g.Wait()
}

func (s *Server) stop() {
	late := time.AfterFunc(s.grace, func() {
		s.log.Warn("calls were still running at the end of the grace period", logkey.Socket, s.socket, logkey.Grace, s.grace)
		s.grpc.Stop() // which ends GracefulStop too
	})
	defer late.Stop()
	s.grpc.GracefulStop()
}

// listen makes a socket that only root can use. It replaces the socket of a dead process, and fails
// where a living process serves the socket.
func listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o750); err != nil {
		return nil, fmt.Errorf("creating the directory of socket %q: %w", socket, err)
	}
	if err := removeStale(socket); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, fmt.Errorf("listening on socket %q: %w", socket, err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("closing socket %q to others: %w", socket, err)
	}
	return listener, nil
}

func removeStale(socket string) error {
	info, err := os.Lstat(socket)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("looking at socket %q: %w", socket, err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%q is in the way of the socket and is not one (%s): remove it, or choose another endpoint", socket, info.Mode())
	}
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err == nil {
		_ = conn.Close()
		return fmt.Errorf("socket %q is served by another process: two drivers of one name cannot share a node", socket)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("asking who serves socket %q: %w", socket, err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the socket of a dead process: %w", err)
	}
	return nil
}

// Ask calls the server through its own socket, as kubelet would.
func (s *Server) Ask(ctx context.Context) error {
	conn, err := grpc.NewClient("unix:"+s.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("asking the socket %q: %w", s.socket, err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := csipb.NewIdentityClient(conn).GetPluginInfo(ctx, &csipb.GetPluginInfoRequest{}); err != nil {
		return fmt.Errorf("asking the socket %q: %w", s.socket, err)
	}
	return nil
}
