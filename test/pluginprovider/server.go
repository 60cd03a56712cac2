// Package pluginprovider is a Secrets Store provider of our own: it speaks the
// v1alpha1 protocol as the existing ones do, from a store in memory or in a
// directory, and gives every wrong answer that a provider can give when the
// class asks for it.
//
// It understands these parameters of a class:
//
//	objects     a YAML list of {objectName, path, mode}; path defaults to the
//	            object's name, mode to the one that the driver sends
//	audience    of the service account token that it logs in with; default
//	            "pluginprovider"
//	tokensFrom  attributes (the default) or secrets
//	answer      the shape of the answer: see Answers
//	early       of the answer "hang", how long before the deadline it ends
//	size        of the file in the answer "huge", in bytes
//	code, text  of the answers "status" and "errorCode"
//	mode        of the files in the answer "mode", as a decimal number
//	path        of the file in the answer "path"
//	plant       what the answer "writesItself" leaves beside the files: see Plants
package pluginprovider

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
)

// Options are how a provider is served.
type Options struct {
	// Store has the objects.
	Store Store
	// Deny are the service accounts, as namespace/name, that the store refuses.
	Deny []string
	// Die ends the process for the answer "die"; nil closes all connections, as the end of a
	// process does.
	Die func()
	// NoVersion has the Version call unimplemented, as some providers have it.
	NoVersion bool
	// Forget keeps the server from recording requests, which have secrets.
	Forget bool
}

// Server is a provider that listens.
type Server struct {
	Options
	v1alpha1.UnimplementedCSIDriverProviderServer
	listener *listener
	grpc     *grpc.Server
	stopped  chan struct{}

	mu       sync.Mutex
	requests []*v1alpha1.MountRequest
	headers  metadata.MD // of all Mount calls
	pings    int
	frozen   chan struct{} // closed when calls may go on; nil if none is held
	held     chan struct{} // has a value once a call waits for that
}

// Start serves <dir>/<name>.sock. A socket of that name that is left from
// before is replaced.
func Start(dir, name string, o Options) (*Server, error) {
	path := filepath.Join(dir, name+".sock")
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("removing the old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	s := &Server{Options: o, listener: &listener{Listener: l}, grpc: grpc.NewServer(), stopped: make(chan struct{})}
	v1alpha1.RegisterCSIDriverProviderServer(s.grpc, s)
	go func() {
		defer close(s.stopped)
		_ = s.grpc.Serve(s.listener)
	}()
	return s, nil
}

// Stopped is closed when the server has stopped.
func (s *Server) Stopped() <-chan struct{} { return s.stopped }

// Stop stops the server and removes the socket, as an orderly shutdown does.
func (s *Server) Stop() {
	s.Thaw()
	s.grpc.Stop()
	<-s.stopped
}

// Kill stops the server as kill -9 does: the socket file stays, without a listener.
func (s *Server) Kill() {
	s.listener.Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	s.Stop()
}

// Refuse closes that many of the next connections as soon as they are made.
func (s *Server) Refuse(connections int) {
	s.listener.mu.Lock()
	defer s.listener.mu.Unlock()
	s.listener.refuse = connections
}

// Refused reports whether all connections that Refuse asked for were refused.
func (s *Server) Refused() bool {
	s.listener.mu.Lock()
	defer s.listener.mu.Unlock()
	return s.listener.refuse == 0
}

// Cut breaks all connections and goes on listening.
func (s *Server) Cut() { s.listener.cut() }

// Freeze makes all further calls wait until Thaw, as in a stopped process. The channel signals that
// one waits.
func (s *Server) Freeze() (held <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen == nil {
		s.frozen, s.held = make(chan struct{}), make(chan struct{}, 1)
	}
	return s.held
}

// Thaw ends a Freeze.
func (s *Server) Thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen != nil {
		close(s.frozen)
		s.frozen = nil
	}
}

// hold waits while the server is frozen. A call whose time ends meanwhile gets an error: its deadline
// may pass here before it does in the caller.
func (s *Server) hold(ctx context.Context) error {
	s.mu.Lock()
	frozen, held := s.frozen, s.held
	s.mu.Unlock()
	if frozen == nil {
		return nil
	}
	select {
	case held <- struct{}{}:
	default: // it was told already
	}
	select {
	case <-frozen:
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// Requests are the Mount calls so far, in order.
func (s *Server) Requests() []*v1alpha1.MountRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*v1alpha1.MountRequest(nil), s.requests...)
}

// Header is the values of a header, such as :authority, in the Mount calls so far.
func (s *Server) Header(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.headers.Get(name)...)
}

// Connections is the number of connections so far.
func (s *Server) Connections() int { return s.listener.count() }

// Pings is how many Version calls there were.
func (s *Server) Pings() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pings
}

func (s *Server) remember(ctx context.Context, m *v1alpha1.MountRequest) {
	if s.Forget {
		return
	}
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, proto.Clone(m).(*v1alpha1.MountRequest))
	s.headers = metadata.Join(s.headers, md)
}

// listener knows its connections.
type listener struct {
	net.Listener
	mu     sync.Mutex
	conns  []net.Conn
	refuse int
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.conns = append(l.conns, conn)
		if l.refuse > 0 {
			l.refuse--
			_ = conn.Close()
		}
	}
	return conn, err
}

func (l *listener) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		_ = conn.Close()
	}
}

func (l *listener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}
