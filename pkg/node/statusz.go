package node

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/printable"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
	"github.com/mayfly-csi/mayfly/pkg/statusz/page"
	"github.com/mayfly-csi/mayfly/pkg/stores"
)

// listenAgain is the pause after a failure to serve the status. In a rolling update on the node's
// network the previous driver may still have the port.
const listenAgain = 5 * time.Second

// serveStatus serves the status. No pod depends on it, so a failure never ends the driver.
func (n *Node) serveStatus(ctx context.Context) error {
	if n.c.StatusAddr == "" {
		return nil
	}
	handler := page.Handler(&page.Source{
		Volumes: n.volumes, Failures: n.failures, Node: n.about, Stores: func() []statusz.Store { return storesOf(n.builtIn) }, Plugins: func() []statusz.Plugin { return pluginsOf(n.plugins) }, Loopback: isLoopback(n.c.StatusAddr),
	})
	return serveAgain(ctx, n.c.StatusAddr, handler, n.c.Logger, time.After)
}

// serveAgain serves until ctx ends, and pauses after each failure.
func serveAgain(ctx context.Context, addr string, h http.Handler, log *slog.Logger, after func(time.Duration) <-chan time.Time) error {
	for told := false; ; told = true {
		err := serveHTTP(ctx, "the status", addr, h)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if !told {
			log.Error("serving the node's status (--status-address) failed, trying again", logkey.Error, err)
		}
		select {
		case <-after(listenAgain):
		case <-ctx.Done():
		}
	}
}

// isLoopback reports whether an address belongs to this host alone.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// about describes the driver itself.
func (n *Node) about() statusz.Node {
	usage := n.budget.Usage()
	out := statusz.Node{
		Name: n.c.NodeID, Driver: n.c.Driver, Version: n.c.Version, Started: n.started.UTC().Truncate(time.Second),
		Volumes: n.volumes.Count(), Failing: n.volumes.Failing(), MemoryUsed: usage.Total, MemoryLimit: usage.Limit,
	}
	if err := n.readiness().Err(context.Background()); err != nil {
		out.NotReady = printable.Text(err.Error(), 1000)
	}
	return out
}

// storesOf returns the servers that the built-in providers know, those with open circuits first.
func storesOf(builtIn provider.Registry) []statusz.Store {
	var out []statusz.Store
	for name, p := range builtIn {
		w, ok := p.(provider.Watcher)
		if !ok {
			continue
		}
		for _, s := range w.Stores() {
			out = append(out, storeOf(name, s))
		}
	}
	slices.SortFunc(out, func(a, b statusz.Store) int {
		return cmp.Or(cmp.Compare(b.OpenCircuits, a.OpenCircuits), cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Address, b.Address))
	})
	return out
}

func storeOf(name string, s stores.Store) statusz.Store {
	const maxName, maxWords = 256, 300
	out := statusz.Store{Provider: name, Address: printable.Text(s.Address, maxName), UsedAt: s.Used.UTC().Truncate(time.Second), OpenCircuits: s.Circuits}
	for _, c := range s.Open {
		out.Circuits = append(out.Circuits, statusz.Circuit{
			Scope: string(c.Scope), StoreNamespace: printable.Text(c.Namespace, maxName), Namespace: printable.Text(c.Tenant, maxName), Path: printable.Text(c.Path, maxName),
			Failures: c.Failures, Since: c.Since.UTC().Truncate(time.Second), ProbeAt: c.ProbeAt.UTC().Truncate(time.Millisecond), Message: printable.Text(c.Last, maxWords),
		})
	}
	return out
}

// pluginsOf returns the plugins in use, by name.
func pluginsOf(plugins *plugin.Registry) []statusz.Plugin {
	if plugins == nil {
		return nil
	}
	var out []statusz.Plugin
	for name, answers := range plugins.Answering() {
		out = append(out, statusz.Plugin{Name: printable.Text(name, 256), Answering: answers})
	}
	slices.SortFunc(out, func(a, b statusz.Plugin) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
