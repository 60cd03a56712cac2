package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/csi"
	"github.com/mayfly-csi/mayfly/pkg/health"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/pkg/telemetry"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// Node is the whole driver.
type Node struct {
	c        Config
	classes  classSource
	volumes  *volume.Publisher
	metrics  *telemetry.Metrics
	server   *csi.Server
	register *csi.Server // nil where somebody else registers the driver
	kubelet  *csi.Registration
	runners  []func(ctx context.Context) error
	serving  atomic.Bool
}

const releaseTimeout = 10 * time.Second

// New builds the driver. It mounts the state's tmpfs and takes up the volumes
// of the last process, and starts nothing.
func New(c Config) (*Node, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	n := &Node{c: c}
	for _, build := range []func() error{n.buildVolumes, n.buildServers} {
		if err := build(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *Node) buildVolumes() error {
	mounts, err := tmpfs.New()
	if err != nil {
		return err
	}
	if ok, why := mounts.NoSwap(); !ok {
		n.c.Logger.Warn("volumes can be swapped out: run the node without swap, or with Linux 6.3 or later", "reason", why)
	}
	store, err := openState(n.c.StateDir, mounts, n.c.Logger)
	if err != nil {
		return err
	}
	providers, err := n.providers()
	if err != nil {
		return err
	}
	n.classes, err = newClasses(n.c, func(ref class.Ref) { n.volumes.ClassChanged(ref) })
	if err != nil {
		return err
	}
	n.metrics = telemetry.New(n.c.Version, func() int { return n.volumes.Count() }, func() int { return n.volumes.Failing() })
	n.volumes, err = volume.New(volume.Config{
		Classes: n.classes, Providers: providers, Mounts: mounts, Store: store,
		Observer: volume.Observers{n.metrics}, Logger: n.c.Logger,
		Interval: n.c.RefreshInterval, SizeLimit: n.c.SizeLimit, InodeLimit: n.c.InodeLimit,
		Workers: n.c.RefreshWorkers, RefreshTimeout: n.c.RefreshTimeout, ReleaseTimeout: releaseTimeout,
	})
	if err != nil {
		return err
	}
	return n.volumes.Recover()
}

// providers lists them, in place of a registration by init.
func (n *Node) providers() (provider.Registry, error) {
	registry := provider.Registry{}
	for _, c := range []vault.Config{n.c.Vault, n.c.OpenBao} {
		p, err := vault.New(c)
		if err != nil {
			return nil, err
		}
		registry[c.Name] = p
	}
	return registry, nil
}

func (n *Node) buildServers() error {
	o := csi.Options{Logger: n.c.Logger, Observe: n.metrics.ObserveCall, Grace: n.c.Grace}
	id := &csi.Identity{Driver: n.c.Driver, Version: n.c.Version, Ready: func() error { return n.readiness().Err(context.Background()) }}
	var err error
	if n.server, err = csi.NewServer(n.c.Endpoint, id, &csi.Node{NodeID: n.c.NodeID, Volumes: n.volumes}, o); err != nil {
		return fmt.Errorf("--endpoint: %w", err)
	}
	if n.c.RegistryDir == "" {
		return nil
	}
	n.kubelet, n.register, err = csi.NewRegistration(n.c.RegistryDir, n.c.Driver, n.c.KubeletEndpoint, o)
	if err != nil {
		return fmt.Errorf("--plugins-registry-dir: %w", err)
	}
	return nil
}

// Run serves until ctx ends, then lets running calls finish. The store and
// the class source stop only after the last call has been answered.
func (n *Node) Run(ctx context.Context) error {
	back, stopBack := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBack()
	g, failed := errgroup.WithContext(back)
	work := []func(context.Context) error{n.volumes.Run, n.classes.Run}
	for _, run := range append(work, n.runners...) {
		g.Go(func() error { return ignoreCanceled(run(back)) })
	}
	for addr, h := range n.handlers() {
		g.Go(func() error { return serveHTTP(back, addr, h) })
	}
	g.Go(func() error {
		defer stopBack()
		front, stop := joined(ctx, failed)
		defer stop()
		return n.serve(front)
	})
	return g.Wait()
}

// joined ends when either context does.
func joined(a, b context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(a)
	stop := context.AfterFunc(b, cancel)
	return ctx, func() { stop(); cancel() }
}

// serve answers kubelet: the CSI socket first, so that a registration never
// names a socket that nobody serves.
func (n *Node) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return n.server.Run(ctx, func() {
			n.serving.Store(true)
			n.c.Logger.Info("serving", "driver", n.c.Driver, "node", n.c.NodeID, "endpoint", n.c.Endpoint, "version", n.c.Version)
			if n.register != nil {
				g.Go(func() error { return n.register.Run(ctx, func() {}) })
			}
		})
	})
	return g.Wait()
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

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

// stuckAfter is how late a refresh may be before the process is held for
// stuck and restarted; nothing is lost by that.
const stuckAfter = 10 * time.Minute

func (n *Node) liveness() health.Checks {
	return health.Checks{
		{Name: "socket", Do: n.server.Ask},
		{Name: "scheduler", Do: func(context.Context) error {
			if late := n.volumes.Overdue(); late > stuckAfter {
				return fmt.Errorf("a refresh has been waiting for a worker for %s", late.Round(time.Second))
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
