package controlplane

import (
	"io"
	"net"
	"sync"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// Link is a connection to a server that can be cut: then connections end, and new ones are refused.
type Link struct {
	// Address is where the link listens, host and port.
	Address string

	t        T
	target   string
	mu       sync.Mutex
	listener net.Listener
	open     map[net.Conn]struct{}
	running  sync.WaitGroup
}

// NewLink leads to a host and port.
func NewLink(t T, target string) *Link {
	t.Helper()
	l := &Link{t: t, target: target, Address: "127.0.0.1:0", open: map[net.Conn]struct{}{}}
	l.Up()
	t.Cleanup(l.Cut)
	return l
}

// Up makes the link work.
func (l *Link) Up() {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener != nil {
		return
	}
	listener := testkit.Value(net.Listen("tcp", l.Address))(l.t)
	l.listener, l.Address = listener, listener.Addr().String()
	l.running.Go(func() { l.serve(listener) })
}

// Cut ends all connections and refuses new ones.
func (l *Link) Cut() {
	l.mu.Lock()
	if l.listener != nil {
		_ = l.listener.Close()
		l.listener = nil
	}
	for conn := range l.open {
		_ = conn.Close()
	}
	l.mu.Unlock()
	l.running.Wait()
}

func (l *Link) serve(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		l.running.Go(func() { l.relay(conn) })
	}
}

func (l *Link) relay(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !l.track(client, server) {
		return
	}
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
		both.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			_ = pair[0].Close()
		})
	}
	both.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, client)
	delete(l.open, server)
}

// track registers connections for Cut to close; false if it has been called.
func (l *Link) track(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener == nil {
		return false
	}
	for _, conn := range conns {
		l.open[conn] = struct{}{}
	}
	return true
}
