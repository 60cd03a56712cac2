package plugin

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fair"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
)

const (
	// authority is what providers expect in :authority.
	authority = "localhost"
	// maxHeaderBytes bounds the headers and trailers of an answer, error texts included.
	maxHeaderBytes = 256 << 10
	// A provider may send this much before the driver reads it, on one call and on all of them:
	// with gRPC's default of 64 KiB it would wait for the driver again and again. The window of a
	// call grows to the size of the answer once the driver reads it.
	callWindow, connectionWindow = 256 << 10, 4 << 20
)

// connection is the connection to one process behind one socket, and the state of that process. The
// registry's mutex guards the second group of fields.
type connection struct {
	socket socket
	conn   *grpc.ClientConn
	client v1alpha1.CSIDriverProviderClient
	// slots bounds the concurrent calls; the Kubernetes namespaces of the pods share them fairly.
	slots    *fair.Semaphore
	liveness liveness

	calls   int
	used    time.Time
	removed bool
	// failed says that a call failed together with its connection, which gRPC's own state may not
	// show yet.
	failed bool
}

// acquire returns the connection to the provider that serves the name now, for one call. It replaces a
// failed connection, so that no call waits for gRPC's reconnection backoff.
func (r *Registry) acquire(name string) (*connection, error) {
	s, err := r.c.find(name)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, fault.New(fault.Canceled, "calling provider %q: the driver stops", name)
	}
	l := r.connections[name]
	if l != nil && (l.socket != s || l.failed || l.conn.GetState() == connectivity.TransientFailure) {
		r.remove(name)
		l = nil
	}
	if l == nil {
		if l, err = r.c.dial(s); err != nil {
			return nil, fault.New(fault.Internal, "preparing the connection to provider %q: %w", name, err)
		}
		r.connections[name] = l
	}
	l.calls++
	return l, nil
}

// release ends a call. used says that the idle timeout starts again: the health checks do not use the
// connection.
func (r *Registry) release(l *connection, used bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if used {
		l.used = r.c.Now()
	}
	l.calls--
	l.closeUnused()
}

// markFailed records that a call failed, unless the connection is intact: then the provider itself
// answered with the error.
func (r *Registry) markFailed(l *connection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.failed = l.conn.GetState() != connectivity.Ready
}

func (l *connection) closeUnused() {
	if l.removed && l.calls == 0 {
		_ = l.conn.Close()
	}
}

// dial prepares a connection. The first call makes it.
func (c *Config) dial(s socket) (*connection, error) {
	conn, err := grpc.NewClient("passthrough:///"+authority,
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.path)
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority(authority),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0), // sweep closes unused connections
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithInitialWindowSize(callWindow),
		grpc.WithInitialConnWindowSize(connectionWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(c.MaxMessageBytes), grpc.ForceCodecV2(newCodec(nil))),
	)
	if err != nil {
		return nil, err
	}
	return &connection{
		socket: s, conn: conn, client: v1alpha1.NewCSIDriverProviderClient(conn),
		slots: fair.New(c.MaxConcurrent, c.MaxConcurrent), liveness: newLiveness(),
	}, nil
}

// Only a few answers are read at once: readers of them from all providers together, providerReaders
// from one provider. The first of each provider never waits for those of another, so a provider
// that stops in the middle of its answers does not block the others. While it is read, each answer
// is in memory twice, as bytes and as a message. Together with MaxMessageBytes these limits bound
// the memory. A limit on calls could not do that without making providers wait for each other's
// stores.
const readers, providerReaders = 8, 4

// receive makes a Mount call. The call may wait long for the provider's store, so receive acquires
// a slot only when the answer begins to arrive. Until then the connection accepts no more than
// callWindow bytes. receive charges the answer before it is decoded.
func (l *connection) receive(ctx context.Context, m *v1alpha1.MountRequest, all *fair.Semaphore, charge *budget.Charge) (*v1alpha1.MountResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	decoder := newCodec(charge)
	stream, err := l.conn.NewStream(ctx, &grpc.StreamDesc{}, v1alpha1.CSIDriverProvider_Mount_FullMethodName, grpc.ForceCodecV2(decoder))
	if err != nil {
		return nil, err
	}
	// RecvMsg returns the errors of these two, and the provider's refusal.
	_ = stream.SendMsg(m)
	_, _ = stream.Header()
	if err := all.Acquire(ctx, l.socket.path); err != nil {
		return nil, err
	}
	defer all.Release(l.socket.path)
	answer := &v1alpha1.MountResponse{}
	if err := stream.RecvMsg(answer); err != nil {
		if decoder.refused != nil {
			return nil, decoder.refused
		}
		return nil, err
	}
	return answer, nil
}
