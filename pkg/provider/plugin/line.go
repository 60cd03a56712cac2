package plugin

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mayfly-csi/mayfly/pkg/fair"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
)

const (
	// authority is what providers expect in :authority.
	authority = "localhost"
	// maxHeaderBytes bounds what comes beside the answer, error texts
	// included.
	maxHeaderBytes = 256 << 10
	// A provider may send this much before we have begun to read it, on one
	// call and on all of them: gRPC's own 64 KiB make it wait for us again and
	// again. The window of a call grows to its answer once that is read.
	callWindow, lineWindow = 256 << 10, 4 << 20
)

// line is the connection to one process behind one socket, with what is known
// of that process. The registry's mutex guards the fields of the second group.
type line struct {
	socket socket
	conn   *grpc.ClientConn
	client v1alpha1.CSIDriverProviderClient
	// slots has a place for each call that may run, shared by the Kubernetes
	// namespaces of the pods.
	slots *fair.Semaphore
	pulse pulse

	calls   int
	used    time.Time
	retired bool
	// failed tells that a call failed with the connection, of which gRPC's own
	// state may not tell yet.
	failed bool
}

// take gives the line to the provider that serves the name now, for one call.
// A connection that has failed is given up, so that no call waits out gRPC's
// pause before it connects again.
func (r *Registry) take(name string) (*line, error) {
	s, err := r.c.find(name)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, fault.New(fault.Canceled, "calling provider %q: the driver stops", name)
	}
	l := r.lines[name]
	if l != nil && (l.socket != s || l.failed || l.conn.GetState() == connectivity.TransientFailure) {
		r.retire(name)
		l = nil
	}
	if l == nil {
		if l, err = r.c.dial(s); err != nil {
			return nil, fault.New(fault.Internal, "preparing the connection to provider %q: %w", name, err)
		}
		r.lines[name] = l
	}
	l.calls++
	return l, nil
}

// give ends what take began.
func (r *Registry) give(l *line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.used = r.c.Now()
	l.done()
}

// doubt notes that a call on the line has failed, unless its connection is well:
// then it was the provider that said so.
func (r *Registry) doubt(l *line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.failed = l.conn.GetState() != connectivity.Ready
}

// giveBack ends what take began and was no use of the line: one that is not in
// use otherwise is to be closed.
func (r *Registry) giveBack(l *line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.done()
}

// done ends a call. The caller holds the mutex.
func (l *line) done() {
	l.calls--
	l.closeUnused()
}

func (l *line) closeUnused() {
	if l.retired && l.calls == 0 {
		_ = l.conn.Close()
	}
}

// dial prepares a connection. It is made with the first call.
func (c *Config) dial(s socket) (*line, error) {
	conn, err := grpc.NewClient("passthrough:///"+authority,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.path)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority(authority),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0), // sweep sees to it
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithInitialWindowSize(callWindow),
		grpc.WithInitialConnWindowSize(lineWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(c.MaxMessageBytes), grpc.ForceCodecV2(&codec{})),
	)
	if err != nil {
		return nil, err
	}
	return &line{
		socket: s, conn: conn, client: v1alpha1.NewCSIDriverProviderClient(conn),
		slots: fair.New(c.MaxConcurrent, c.MaxConcurrent), pulse: newPulse(),
	}, nil
}
