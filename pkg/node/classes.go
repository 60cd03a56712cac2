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
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

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
