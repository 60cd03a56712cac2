package status

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient"
)

// client implements API.
type client struct {
	core   *rest.RESTClient
	stores *rest.RESTClient
}

// NewAPI makes an API of the cluster's address and credentials. The Reporter limits the rate, so
// the clients do not.
func NewAPI(c *rest.Config) (API, error) { return newClient(c) }

func newClient(c *rest.Config) (*client, error) {
	core, err := kubeclient.New(c, corev1.SchemeGroupVersion, kubeclient.Kinds(corev1.SchemeGroupVersion, &corev1.Event{}))
	if err != nil {
		return nil, err
	}
	stores, err := kubeclient.New(c, v1.GroupVersion(), v1.AddToScheme)
	if err != nil {
		return nil, err
	}
	return &client{core, stores}, nil
}

func (c *client) CreateEvent(ctx context.Context, e *corev1.Event) (*corev1.Event, error) {
	out := &corev1.Event{}
	return out, c.core.Post().Namespace(e.Namespace).Resource("events").Body(e).Do(ctx).Into(out)
}

func (c *client) UpdateEvent(ctx context.Context, e *corev1.Event) (*corev1.Event, error) {
	out := &corev1.Event{}
	return out, c.core.Put().Namespace(e.Namespace).Resource("events").Name(e.Name).Body(e).Do(ctx).Into(out)
}

func (c *client) statuses(r *rest.Request, namespace string) *rest.Request {
	return r.Namespace(namespace).Resource(v1.SecretProviderClassPodStatusResource)
}

// pageSize is how many statuses are listed at once: more than one node has.
const pageSize = "500"

// ListStatuses reads from the API server's cache, and follows its pages.
func (c *client) ListStatuses(ctx context.Context, node string) ([]v1.SecretProviderClassPodStatus, error) {
	var found []v1.SecretProviderClassPodStatus
	err := c.pages(ctx, labels.Set{v1.NodeLabel: node}, func(page []v1.SecretProviderClassPodStatus) {
		found = append(found, page...)
	})
	return found, err
}

// pages calls take with each page of the statuses with these labels.
func (c *client) pages(ctx context.Context, with labels.Set, take func([]v1.SecretProviderClassPodStatus)) error {
	for next := ""; ; {
		r := c.stores.Get().Resource(v1.SecretProviderClassPodStatusResource).
			Param("labelSelector", with.String()).Param("limit", pageSize)
		if next == "" {
			r.Param("resourceVersion", "0")
		} else {
			r.Param("continue", next)
		}
		page := &v1.SecretProviderClassPodStatusList{}
		if err := r.Do(ctx).Into(page); err != nil {
			return err
		}
		take(page.Items)
		if next = page.Continue; next == "" {
			return nil
		}
	}
}

// CountMounted counts a driver's mounted volumes, by namespace.
func CountMounted(ctx context.Context, c *rest.Config, driver string) (map[string]int, error) {
	api, err := newClient(c)
	if err != nil {
		return nil, err
	}
	count := map[string]int{}
	err = api.pages(ctx, labels.Set{DriverLabel: driver}, func(page []v1.SecretProviderClassPodStatus) {
		for i := range page {
			if page[i].Status.Mounted {
				count[page[i].Namespace]++
			}
		}
	})
	return count, err
}

func (c *client) GetStatus(ctx context.Context, namespace, name string) (*v1.SecretProviderClassPodStatus, error) {
	out := &v1.SecretProviderClassPodStatus{}
	// A read from the API server's cache costs etcd nothing. If the cache is outdated, the API
	// server refuses the write that follows, and the worker retries it.
	return out, c.statuses(c.stores.Get(), namespace).Name(name).Param("resourceVersion", "0").Do(ctx).Into(out)
}

func (c *client) CreateStatus(ctx context.Context, s *v1.SecretProviderClassPodStatus) (*v1.SecretProviderClassPodStatus, error) {
	out := &v1.SecretProviderClassPodStatus{}
	return out, c.statuses(c.stores.Post(), s.Namespace).Body(s).Do(ctx).Into(out)
}

func (c *client) UpdateStatus(ctx context.Context, s *v1.SecretProviderClassPodStatus) (*v1.SecretProviderClassPodStatus, error) {
	out := &v1.SecretProviderClassPodStatus{}
	return out, c.statuses(c.stores.Put(), s.Namespace).Name(s.Name).Body(s).Do(ctx).Into(out)
}

func (c *client) DeleteStatus(ctx context.Context, s *v1.SecretProviderClassPodStatus) error {
	o := metav1.NewPreconditionDeleteOptions(string(s.UID))
	return c.statuses(c.stores.Delete(), s.Namespace).Name(s.Name).Body(o).Do(ctx).Error()
}
