package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/health"
)

// handlers returns the HTTP handlers by address: health and metrics may share one.
func (n *Node) handlers() map[string]*http.ServeMux {
	muxes := map[string]*http.ServeMux{}
	mux := func(addr string) *http.ServeMux {
		if muxes[addr] == nil {
			muxes[addr] = http.NewServeMux()
		}
		return muxes[addr]
	}
	if addr := n.c.HealthAddr; addr != "" {
		mux(addr).Handle("GET /healthz", n.liveness())
		mux(addr).Handle("GET /readyz", n.readiness())
	}
	if addr := n.c.MetricsAddr; addr != "" {
		mux(addr).Handle("GET /metrics", n.metrics.Handler())
	}
	return muxes
}

// stuckAfter is how long due refreshes may wait with none beginning or ending before the liveness
// check fails. The restart that follows loses nothing.
const stuckAfter = 10 * time.Minute

// askEvery bounds how often health requests connect to the CSI socket. Each check needs a new
// connection: an old one would not show that kubelet can no longer find the socket.
const askEvery = time.Second

func (n *Node) liveness() health.Checks {
	return health.Checks{
		health.Shared(health.Check{Name: "socket", Do: n.server.Ask}, askEvery),
		{Name: "scheduler", Do: func(context.Context) error {
			if still := n.volumes.Stalled(); still > max(stuckAfter, 2*n.c.RefreshTimeout) {
				return fmt.Errorf("refreshes are due, and none has begun or ended for %s", still.Round(time.Second))
			}
			return nil
		}},
	}
}

func (n *Node) readiness() health.Checks {
	checks := health.Checks{{Name: "serving", Do: func(context.Context) error {
		if !n.serving.Load() {
			return errors.New("the CSI socket does not take calls yet")
		}
		return nil
	}}}
	if n.kubelet != nil {
		checks = append(checks, health.Check{Name: "registration", Do: func(context.Context) error { return n.kubelet.Ready() }})
	}
	return checks
}

// Any client in the node's network can connect. A client must send its request and read the answer
// within these times, and a connection serves one request. The headers of a probe or a scrape are
// far below the limit, in bytes.
const (
	readTimeout  = 3 * time.Second
	writeTimeout = 10 * time.Second
	headerLimit  = 8 << 10
	// maxConnections bounds the connections to one port.
	maxConnections = 64
)

func newHTTPServer(h http.Handler) *http.Server {
	server := &http.Server{
		Handler: h, ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: readTimeout,
		MaxHeaderBytes: headerLimit, ConnState: new(connections).changed,
	}
	server.SetKeepAlivesEnabled(false)
	return server
}

// connections closes the oldest connection when there are too many. So a new one, which may be
// kubelet's probe, never waits for idle clients.
type connections struct {
	mu   sync.Mutex
	open []net.Conn // the oldest first
}

// changed implements http.Server.ConnState.
func (c *connections) changed(conn net.Conn, now http.ConnState) {
	var surplus net.Conn
	c.mu.Lock()
	switch now {
	case http.StateNew:
		if c.open = append(c.open, conn); len(c.open) > maxConnections {
			surplus = c.open[0]
			c.open = slices.Delete(c.open, 0, 1)
		}
	case http.StateClosed, http.StateHijacked:
		if at := slices.Index(c.open, conn); at >= 0 {
			c.open = slices.Delete(c.open, at, at+1)
		}
	}
	c.mu.Unlock()
	if surplus != nil {
		_ = surplus.Close()
	}
}

// serveHTTP serves h; what names the server in errors.
func serveHTTP(ctx context.Context, what, addr string, h http.Handler) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listening for %s on %s: %w", what, addr, err)
	}
	server := newHTTPServer(h)
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving %s on %s: %w", what, addr, err)
	}
	return nil
}
