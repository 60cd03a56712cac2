package status

import (
	"context"
	"encoding/json"
	"time"

	"golang.org/x/time/rate"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient/corev1"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
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
	err = api.pages(ctx, labels.Set{names.DriverLabel: driver}, func(page []v1.SecretProviderClassPodStatus) {
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

// limited delays and bounds all of the node's requests. A task that needs no request waits for
// nothing.
type limited struct {
	api   API
	limit *rate.Limiter
	bytes *rate.Limiter
}

const (
	// requestTimeout bounds one request.
	requestTimeout = 15 * time.Second
	// bytesPerSecond bounds what one node writes to etcd: 256 KiB a minute.
	bytesPerSecond = rate.Limit(256<<10) / 60
	// bytesBurst fits the first statuses of a full node.
	bytesBurst = 256 << 10
)

// written delays a request that writes an object to etcd.
func written[T any](ctx context.Context, l *limited, object T, call func(context.Context, T) (T, error)) (T, error) {
	var zero T
	text, err := json.Marshal(object)
	if err != nil {
		return zero, err
	}
	if err := l.bytes.WaitN(ctx, min(len(text), bytesBurst)); err != nil {
		return zero, err
	}
	return paced(ctx, l, func(ctx context.Context) (T, error) { return call(ctx, object) })
}

func paced[T any](ctx context.Context, l *limited, call func(context.Context) (T, error)) (T, error) {
	var zero T
	if err := l.limit.Wait(ctx); err != nil {
		return zero, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return call(ctx)
}

func (l *limited) CreateEvent(ctx context.Context, e *corev1.Event) (*corev1.Event, error) {
	return written(ctx, l, e, l.api.CreateEvent)
}

func (l *limited) UpdateEvent(ctx context.Context, e *corev1.Event) (*corev1.Event, error) {
	return written(ctx, l, e, l.api.UpdateEvent)
}

func (l *limited) ListStatuses(ctx context.Context, node string) ([]v1.SecretProviderClassPodStatus, error) {
	return paced(ctx, l, func(ctx context.Context) ([]v1.SecretProviderClassPodStatus, error) {
		return l.api.ListStatuses(ctx, node)
	})
}

func (l *limited) GetStatus(ctx context.Context, namespace, name string) (*v1.SecretProviderClassPodStatus, error) {
	return paced(ctx, l, func(ctx context.Context) (*v1.SecretProviderClassPodStatus, error) {
		return l.api.GetStatus(ctx, namespace, name)
	})
}

func (l *limited) CreateStatus(ctx context.Context, s *v1.SecretProviderClassPodStatus) (*v1.SecretProviderClassPodStatus, error) {
	return written(ctx, l, s, l.api.CreateStatus)
}

func (l *limited) UpdateStatus(ctx context.Context, s *v1.SecretProviderClassPodStatus) (*v1.SecretProviderClassPodStatus, error) {
	return written(ctx, l, s, l.api.UpdateStatus)
}

func (l *limited) DeleteStatus(ctx context.Context, s *v1.SecretProviderClassPodStatus) error {
	_, err := paced(ctx, l, func(ctx context.Context) (struct{}, error) { return struct{}{}, l.api.DeleteStatus(ctx, s) })
	return err
}
