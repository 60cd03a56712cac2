package node

import (
	"context"
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/class/apisource"
	"github.com/mayfly-csi/mayfly/pkg/class/dirsource"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// classSource is where classes come from.
type classSource interface {
	volume.Classes
	Run(ctx context.Context) error
}

func newClasses(c Config, onChange func(class.Ref)) (classSource, error) {
	if c.ClassDir != "" {
		return dirsource.New(dirsource.Config{Dir: c.ClassDir, Logger: c.Logger, OnChange: onChange})
	}
	cluster, err := restConfig(c.Kubeconfig)
	if err != nil {
		return nil, err
	}
	cluster.UserAgent = "mayfly-node/" + c.Version
	return apisource.New(apisource.Config{REST: cluster, QPS: c.KubeQPS, Burst: c.KubeBurst, Logger: c.Logger, OnChange: onChange})
}

func restConfig(kubeconfig string) (*rest.Config, error) {
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
