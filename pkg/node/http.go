package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/health"
)

// handlers are the HTTP handlers by address: health and metrics may share one.
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

// stuckAfter is for how long refreshes may stand still before the process is
// held for stuck and restarted; nothing is lost by that.
const stuckAfter = 10 * time.Minute

func (n *Node) liveness() health.Checks {
	return health.Checks{
		{Name: "socket", Do: n.server.Ask},
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

func serveHTTP(ctx context.Context, addr string, h http.Handler) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("listening for health and metrics on %s: %w", addr, err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving health and metrics on %s: %w", addr, err)
	}
	return nil
}
