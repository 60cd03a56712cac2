// Package taint removes a start-up taint from the node once the driver is ready, so that no pod
// with a volume is scheduled before.
package taint

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	"github.com/mayfly-csi/mayfly/pkg/kubeclient"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient/corev1"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
)

// Remover removes the taint.
type Remover struct {
	client rest.Interface
	node   string
	key    string
	log    *slog.Logger
	// ready says why the driver is not ready yet.
	ready func() error
}

// New makes a Remover of the taint with that key and any effect.
func New(cluster *rest.Config, node, key string, ready func() error, log *slog.Logger) (*Remover, error) {
	client, err := kubeclient.New(cluster, corev1.SchemeGroupVersion, nil)
	if err != nil {
		return nil, err
	}
	return &Remover{client, node, key, log, ready}, nil
}

const (
	readyPoll    = 200 * time.Millisecond
	requestLimit = 10 * time.Second
)

// Run waits until the driver is ready, removes the taint, and returns. It retries while the API
// server does not answer.
func (r *Remover) Run(ctx context.Context) error {
	err := wait.PollUntilContextCancel(ctx, readyPoll, true, func(context.Context) (bool, error) { return r.ready() == nil, nil })
	if err != nil {
		return nil // the driver stops
	}
	pause := wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.5, Steps: 1 << 20, Cap: time.Minute}
	said := false
	_ = wait.ExponentialBackoffWithContext(ctx, pause, func(ctx context.Context) (bool, error) {
		err := r.remove(ctx)
		if err != nil && !said {
			said = true
			r.log.Error("removing the start-up taint from the node failed, trying again", logkey.Node, r.node, logkey.Taint, r.key, logkey.Error, err)
		}
		return err == nil, nil
	})
	return nil
}

// remove patches with the resource version that it read. If another client adds a taint meanwhile,
// the patch fails and Run retries, so that taint is not lost.
func (r *Remover) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	var node struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Spec struct {
			Taints []map[string]any `json:"taints"` // whole, also what a later Kubernetes adds
		} `json:"spec"`
	}
	if err := kubeclient.Get(ctx, r.client.Get().Resource("nodes").Name(r.node), &node); err != nil {
		return fmt.Errorf("reading the node: %w", err)
	}
	keep := slices.DeleteFunc(slices.Clone(node.Spec.Taints), func(t map[string]any) bool { return t["key"] == r.key })
	if len(keep) == len(node.Spec.Taints) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": node.Metadata.ResourceVersion},
		"spec":     map[string]any{"taints": keep},
	})
	if err != nil {
		return fmt.Errorf("encoding the patch: %w", err)
	}
	if err := r.client.Patch(types.MergePatchType).Resource("nodes").Name(r.node).Body(patch).Do(ctx).Error(); err != nil {
		return fmt.Errorf("patching the node: %w", err)
	}
	r.log.Info("removed the start-up taint from the node", logkey.Node, r.node, logkey.Taint, r.key)
	return nil
}
