package cluster

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	helmNamespace    = "meta.helm.sh/release-namespace"
	defaultNamespace = "kube-system"
	// DriverLabels are the labels of the chart's objects, without those of a release.
	DriverLabels = "app.kubernetes.io/name=mayfly"
)

// CSIDriver reads the CSIDriver object of Mayfly; nil if there is none.
func (c *Client) CSIDriver(ctx context.Context) (*storagev1.CSIDriver, error) {
	d, err := c.StorageV1().CSIDrivers().Get(ctx, c.DriverName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return d, nil
}

// DriverNamespace is where the driver's pods run. The CSIDriver object may be nil.
func (c *Client) DriverNamespace(d *storagev1.CSIDriver) string {
	switch {
	case c.driverNamespace != "":
		return c.driverNamespace
	case d != nil && d.Annotations[helmNamespace] != "":
		return d.Annotations[helmNamespace]
	}
	return defaultNamespace
}

// DriverPods lists the driver's pods of a namespace on a node, on every node for an empty name.
func (c *Client) DriverPods(ctx context.Context, namespace, node string) ([]corev1.Pod, error) {
	var all []corev1.Pod
	err := Pages(func(o metav1.ListOptions) (string, error) {
		o.LabelSelector = DriverLabels
		if node != "" {
			o.FieldSelector = "spec.nodeName=" + node
		}
		list, err := c.CoreV1().Pods(namespace).List(ctx, o)
		if err != nil {
			return "", err
		}
		all = append(all, list.Items...)
		return list.Continue, nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing the driver's pods: %w", err)
	}
	return all, nil
}
