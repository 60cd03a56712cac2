package node

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/pkg/rendered"
	"github.com/mayfly-csi/mayfly/pkg/rollout"
	"github.com/mayfly-csi/mayfly/pkg/secretsync"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// releaseTimeout bounds one attempt to revoke a gone volume's credentials.
const releaseTimeout = 10 * time.Second

// lockMargin is how long the previous process may take to end once its calls have ended.
const lockMargin = 5 * time.Second

func (n *Node) buildVolumes() error {
	mounts, err := tmpfs.New()
	if err != nil {
		return err
	}
	if ok, why := mounts.NoSwap(); !ok {
		n.c.Logger.Warn("volumes can be swapped out: run the node without swap, or with Linux 6.3 or later", logkey.Reason, why)
	}
	if n.state, err = openState(n.c.StateDir, n.c.StateSize, mounts, n.c.Grace+lockMargin, n.c.Logger); err != nil {
		return err
	}
	store, err := n.state.records(n.budget, n.c.Logger)
	if err != nil {
		return err
	}
	providers, err := n.providers()
	if err != nil {
		return err
	}
	rest, err := clusterConfig(n.c)
	if err != nil {
		return err
	}
	if rest != nil {
		rest.Wrap(n.metrics.CountAPIRequests)
	}
	n.runners = append(n.runners, func(ctx context.Context) error { return watchSuspend(ctx, clock.SinceBoot) })
	n.classes, err = newClasses(n.c, n.budget, rest, func(ref class.Ref, version string) { n.volumes.ClassVersion(ref, version) })
	if err != nil {
		return err
	}
	observers := volume.Observers{n.metrics, n.failures}
	if n.audit != nil {
		observers = append(observers, n.audit)
	}
	writers := volume.Followers{secretsync.Off{}, rollout.Off{}}
	if rest != nil {
		cluster, err := newCluster(&n.c, rest, n.metrics, func() error { return n.readiness().Err(context.Background()) })
		if err != nil {
			return err
		}
		observers, writers = append(observers, cluster.observers...), cluster.followers
		n.runners = append(n.runners, cluster.runners...)
	}
	n.volumes, err = volume.New(volume.Config{
		Classes: n.classes, Providers: providers, Renderer: rendered.New(n.budget), Mounts: mounts, Store: store, Observer: observers, Follower: writers, Tracer: n.tracer, Logger: n.c.Logger,
		Limits: n.c.Limits, LastGoodAge: n.c.LastGoodAge, Strict: n.c.StrictClasses, Budget: n.budget, StoreReturned: n.returned,
		Workers: n.c.RefreshWorkers, RefreshTimeout: n.c.RefreshTimeout, ReleaseTimeout: releaseTimeout,
	})
	if err != nil {
		return err
	}
	n.metrics.WatchVolumes(n.volumes.Statuses, n.volumes.Overview)
	return nil
}

// onReturn passes on that a store answers again.
func (n *Node) onReturn() {
	select {
	case n.returned <- struct{}{}:
	default: // the volumes that wait are not due yet for the last return
	}
}

// providers lists them explicitly; there is no registration by init.
func (n *Node) providers() (volume.Providers, error) {
	key, err := n.state.identityKey()
	if err != nil {
		return nil, err
	}
	registry := provider.Registry{}
	n.builtIn = registry
	for _, c := range []vault.Config{n.c.Vault, n.c.OpenBao} {
		c.Logger, c.Budget, c.Boot, c.MinInterval, c.OnRequest = n.c.Logger, n.budget, clock.SinceBoot, n.c.MinInterval, n.onRequest(c.Name)
		c.OnShared, c.OnReturn = n.onShared(c.Name), n.onReturn
		p, err := vault.New(c)
		if err != nil {
			return nil, err
		}
		registry[c.Name] = p
	}
	a := &n.c.Akeyless
	a.Logger, a.IdentityKey, a.Budget, a.Boot, a.OnRequest = n.c.Logger, key, n.budget, clock.SinceBoot, n.onRequest(akeyless.Name)
	a.OnShared, a.OnReturn = n.onShared(akeyless.Name), n.onReturn
	if registry[akeyless.Name], err = akeyless.New(n.c.Akeyless); err != nil {
		return nil, err
	}
	n.metrics.WatchStores(func() map[string]int { return openCircuits(registry) })
	if len(n.c.Plugins) == 0 {
		return registry, nil
	}
	audiences, err := n.c.pluginAudiences()
	if err != nil {
		return nil, err
	}
	n.plugins, err = plugin.New(plugin.Config{
		Dirs: n.c.Plugins, Audiences: audiences, MaxMessageBytes: int(n.c.PluginMessage), Timeout: n.c.PluginTimeout,
		BuiltIn: slices.Sorted(maps.Keys(registry)), Logger: n.c.Logger, Budget: n.budget,
	})
	if err != nil {
		return nil, err
	}
	n.runners = append(n.runners, n.plugins.Run)
	n.metrics.WatchPlugins(n.plugins.Names, n.plugins.Answering)
	return providerChain{registry, n.plugins}, nil
}

// onRequest counts the requests of a built-in provider, and creates its series.
func (n *Node) onRequest(name string) func(endpoint.Operation, int, time.Duration) {
	var operations []string
	for _, o := range endpoint.Operations() {
		operations = append(operations, string(o))
	}
	n.metrics.KnowProvider(name, operations...)
	return func(o endpoint.Operation, status int, took time.Duration) {
		n.metrics.ObserveRequest(name, string(o), status, took)
	}
}

// onShared counts what the volumes of a built-in provider share, and creates its series.
func (n *Node) onShared(name string) func(endpoint.Operation, bool) {
	for _, o := range []endpoint.Operation{endpoint.OpLogin, endpoint.OpRead} {
		n.metrics.KnowShared(name, string(o))
	}
	return func(o endpoint.Operation, shared bool) { n.metrics.CountShared(name, string(o), shared) }
}

// openCircuits counts the open circuits of each provider.
func openCircuits(registry provider.Registry) map[string]int {
	open := map[string]int{}
	for name, p := range registry {
		if w, ok := p.(provider.Watcher); ok {
			for _, s := range w.Stores() {
				open[name] += s.Circuits
			}
			open[name] += 0
		}
	}
	return open
}

// providerChain looks for a built-in provider first, then for a plugin.
type providerChain struct {
	builtIn provider.Registry
	plugins volume.Providers
}

// Get implements volume.Providers.
func (c providerChain) Get(name string) (provider.Provider, error) {
	if p, ok := c.builtIn[name]; ok {
		return p, nil
	}
	return c.plugins.Get(name)
}
