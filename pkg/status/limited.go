package status

import (
	"context"
	"encoding/json"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

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
