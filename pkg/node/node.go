package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/audit"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/csi"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/statusz/page"
	"github.com/mayfly-csi/mayfly/pkg/telemetry"
	"github.com/mayfly-csi/mayfly/pkg/trace"
	"github.com/mayfly-csi/mayfly/pkg/trace/export"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// Node is the whole driver.
type Node struct {
	c        Config
	classes  classSource
	state    *state
	volumes  *volume.Manager
	metrics  *telemetry.Metrics
	budget   *budget.Budget
	audit    *audit.Log // nil for no audit trail
	failures *page.Failures
	builtIn  provider.Registry
	returned chan struct{}    // gets a value when a store answers again
	plugins  *plugin.Registry // nil for none
	server   *csi.Server
	register *csi.Server // nil if another process registers the driver
	kubelet  *csi.Registration
	runners  []func(ctx context.Context) error
	serving  atomic.Bool
	started  time.Time
	tracer   *trace.Tracer // nil for none
	// last are what ends only after all work has ended.
	last []func(ctx context.Context) error
}

// New builds the driver. It mounts and locks the state's tmpfs, recovers the volumes of the last
// process, and starts nothing. The state stays locked until Run returns.
func New(c Config) (_ *Node, err error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	n := &Node{c: c, failures: &page.Failures{}, started: time.Now(), returned: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.closeState())
		}
	}()
	n.metrics = telemetry.New(c.Version, func() int { return n.volumes.Count() }, func() int { return n.volumes.Failing() })
	for _, build := range []func() error{n.buildBudget, n.buildAudit, n.buildTraces, n.buildVolumes, n.buildServers} {
		if err := build(); err != nil {
			return nil, err
		}
	}
	if err := n.volumes.Recover(); err != nil {
		return nil, err
	}
	return n, nil
}

func (n *Node) closeState() error {
	if n.state == nil {
		return nil
	}
	if err := n.state.close(); err != nil {
		return fmt.Errorf("closing the state directory: %w", err)
	}
	return nil
}

// buildAudit opens the audit trail. The driver does not start if it cannot write the trail. It writes
// the first line once the previous process has ended.
func (n *Node) buildAudit() (err error) {
	if n.c.AuditLog == "" {
		return nil
	}
	n.audit, err = audit.New(audit.Config{
		Path: n.c.AuditLog, Stdout: n.c.Stdout, Level: n.c.AuditLevel, Node: n.c.NodeID, Memory: auditEnd{n}, Meter: n.metrics.Audit(), Logger: n.c.Logger,
	})
	if err != nil {
		return fmt.Errorf("--audit-log: %w", err)
	}
	n.last = append(n.last, n.audit.Run)
	return nil
}

// buildTraces prepares to send traces where they are asked for.
func (n *Node) buildTraces() error {
	if !n.c.Traces {
		return nil
	}
	e, err := export.New(context.Background(), export.Config{
		Version: n.c.Version, Node: n.c.NodeID, Logger: n.c.Logger, Getenv: os.Getenv,
		Count: func(r export.Result, spans int) { n.metrics.CountSpans(string(r), spans) },
	})
	if err != nil {
		return fmt.Errorf("--enable-otel-tracing: %w", err)
	}
	for _, r := range export.Results() {
		n.metrics.KnowSpans(string(r))
	}
	n.tracer = e.Tracer()
	n.last = append(n.last, e.Run)
	return nil
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

// Run serves until ctx ends, then waits for running calls to finish. The audit trail and the traces
// end last, because every other part may write to them.
func (n *Node) Run(ctx context.Context) error {
	return errors.Join(n.run(ctx), n.closeState())
}

func (n *Node) run(ctx context.Context) error {
	last, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var g errgroup.Group
	for _, run := range n.last {
		g.Go(func() error { return run(last) })
	}
	g.Go(func() error {
		defer stop()
		return n.work(ctx)
	})
	return g.Wait()
}

// work serves until ctx ends. The store and the class source stop only after the last call is
// answered.
func (n *Node) work(ctx context.Context) error {
	back, stopBack := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBack()
	g, failed := errgroup.WithContext(back)
	work := []func(context.Context) error{n.volumes.Run, n.classes.Run, n.refreshOnDemand}
	for _, run := range append(work, n.runners...) {
		g.Go(func() error {
			if err := run(back); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		})
	}
	for addr, h := range n.handlers() {
		g.Go(func() error { return serveHTTP(back, "health and metrics", addr, h) })
	}
	g.Go(func() error { return n.serveStatus(back) })
	g.Go(func() error {
		defer stopBack() // the last call has been answered
		front, stop := context.WithCancel(ctx)
		defer stop()
		defer context.AfterFunc(failed, stop)() // or once a part has failed
		return n.serve(front)
	})
	return g.Wait()
}

// refreshOnDemand refreshes every volume when the operator asks for it.
func (n *Node) refreshOnDemand(ctx context.Context) error {
	for {
		select {
		case <-n.c.RefreshNow:
			n.c.Logger.Info("refreshing every volume on demand", logkey.Volumes, n.volumes.Count())
			n.volumes.RefreshAll()
		case <-ctx.Done():
			return nil
		}
	}
}

// serve answers kubelet. It opens the CSI socket first, so that kubelet never gets the name of a
// socket that is not served yet.
func (n *Node) serve(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return n.server.Run(ctx, func() {
			n.serving.Store(true)
			n.c.Logger.Info("serving", logkey.Driver, n.c.Driver, logkey.Node, n.c.NodeID, logkey.Endpoint, n.c.Endpoint, logkey.Version, n.c.Version)
			if n.register != nil {
				g.Go(func() error { return n.register.Run(ctx, func() {}) })
			}
		})
	})
	return g.Wait()
}

// ErrSuspended ends Run after the node was suspended. The clock that this process uses for all
// times stopped meanwhile, and leases expired. A new Node, which recovers the volumes from their
// records, finds what is due.
var ErrSuspended = errors.New("the node was suspended")

const (
	// suspendLook is the pause between two checks, and suspendNoticed the shortest suspension that
	// matters.
	suspendLook    = 5 * time.Second
	suspendNoticed = 10 * time.Second
)

// watchSuspend compares the time since the node's boot, which counts suspended time, with the
// process's own, which does not.
func watchSuspend(ctx context.Context, boot clock.Boot) error {
	began := time.Now()
	first, id := boot()
	if id == "" {
		return nil
	}
	look := time.NewTicker(suspendLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		now, _ := boot()
		if suspended := now - first - time.Since(began); suspended > suspendNoticed {
			return fmt.Errorf("%w for %s", ErrSuspended, suspended.Round(time.Second))
		}
	}
}
