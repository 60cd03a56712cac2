package node

import (
	"context"
	"fmt"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/class/kube"
	"github.com/mayfly-csi/mayfly/pkg/class/manifests"
	"github.com/mayfly-csi/mayfly/pkg/rollout"
	"github.com/mayfly-csi/mayfly/pkg/secretsync"
	"github.com/mayfly-csi/mayfly/pkg/status"
	"github.com/mayfly-csi/mayfly/pkg/taint"
	"github.com/mayfly-csi/mayfly/pkg/telemetry"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// The rate of status and Event writes of one node: it covers a full node of 110 pods within half a
// minute, and does not overload the API server when a whole cluster starts at once.
const (
	statusQPS   = 5
	statusBurst = 20
)

// cluster has the parts of the driver that write to the API server.
type cluster struct {
	observers volume.Observers
	followers volume.Followers
	runners   []func(ctx context.Context) error
}

// newCluster builds the reports of outcomes, and the parts that are switched on: the removal of the
// start-up taint when ready returns nil, the Kubernetes Secrets of classes, and the restarts of
// workloads.
func newCluster(c *Config, api *rest.Config, m *telemetry.Metrics, ready func() error) (*cluster, error) {
	reports, err := newReporter(c, api)
	if err != nil {
		return nil, err
	}
	out := &cluster{
		observers: volume.Observers{reports}, followers: volume.Followers{secretsync.Off{}, rollout.Off{}},
		runners: []func(ctx context.Context) error{reports.Run},
	}
	if c.StartupTaint != "" {
		r, err := taint.New(api, c.NodeID, c.StartupTaint, ready, c.Logger)
		if err != nil {
			return nil, err
		}
		out.runners = append(out.runners, r.Run)
	}
	if c.SyncSecrets { // before the restarts, after which pods read the Secrets again
		secrets, err := newSecrets(c, api, m, reports)
		if err != nil {
			return nil, err
		}
		out.followers[0], out.observers = secrets, append(out.observers, secrets)
	}
	if c.RolloutRestart {
		restarts, err := newRestarts(c, api, m, reports)
		if err != nil {
			return nil, err
		}
		out.followers[1], out.observers = restarts, append(out.observers, restarts)
	}
	return out, nil
}

// newReporter writes the statuses and Events.
func newReporter(c *Config, cluster *rest.Config) (*status.Reporter, error) {
	api, err := status.NewAPI(cluster)
	if err != nil {
		return nil, err
	}
	return status.New(status.Config{
		API: api, Logger: c.Logger, Driver: c.Driver, Node: c.NodeID, QPS: statusQPS, Burst: statusBurst, RotatedEvents: c.RotatedEvents,
	})
}

// newSecrets writes the Kubernetes Secrets of classes.
func newSecrets(c *Config, cluster *rest.Config, m *telemetry.Metrics, events status.Teller) (*secretsync.Syncer, error) {
	api, err := secretsync.NewAPI(cluster)
	if err != nil {
		return nil, err
	}
	for _, result := range secretsync.Results() {
		m.KnowSecretResult(string(result))
	}
	return secretsync.New(secretsync.Config{
		API: api, Events: events, Logger: c.Logger, Node: c.NodeID,
		Count: func(r secretsync.Result) { m.CountSecret(string(r)) },
	})
}

// newRestarts restarts the workloads that classes name.
func newRestarts(c *Config, cluster *rest.Config, m *telemetry.Metrics, events status.Teller) (*rollout.Restarter, error) {
	api, err := rollout.NewAPI(cluster)
	if err != nil {
		return nil, err
	}
	return rollout.New(rollout.Config{API: api, Events: events, Logger: c.Logger, Count: m.CountRestart})
}

// classLinger is how long a class stays in memory after its last pod is gone, so that the next pod
// finds it.
const classLinger = 2 * time.Minute

// classSource reads and watches classes.
type classSource interface {
	volume.Classes
	Run(ctx context.Context) error
}

// newClasses reads classes from the cluster, or from the directory if there is no cluster.
func newClasses(c Config, b *budget.Budget, cluster *rest.Config, onVersion func(ref class.Ref, version string)) (classSource, error) {
	if cluster == nil {
		return manifests.New(manifests.Config{Dir: c.ClassDir, Logger: c.Logger, OnVersion: onVersion})
	}
	return kube.New(kube.Config{REST: cluster, QPS: c.KubeQPS, Burst: c.KubeBurst, Linger: classLinger, Logger: c.Logger, Budget: b, OnVersion: onVersion})
}

// clusterConfig returns how to reach the API server; nil if classes come from a directory and there
// is no API server.
func clusterConfig(c Config) (*rest.Config, error) {
	if c.ClassDir != "" {
		return nil, nil
	}
	cluster, err := RESTConfig(c.Kubeconfig)
	if err != nil {
		return nil, err
	}
	cluster.UserAgent = "mayfly-node/" + c.Version
	return cluster, nil
}

// RESTConfig reads a kubeconfig file; without one it returns a pod's own configuration.
func RESTConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("--kubeconfig %q: %w", kubeconfig, err)
		}
		return cfg, nil
	}
	cfg, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the API server: %w (outside of a cluster give --kubeconfig, or --class-dir to take classes from a directory of manifests)", err)
	}
	return cfg, nil
}
