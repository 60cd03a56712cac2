package status

import (
	"context"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

// limited is the one place where the node's requests are held back and
// bounded. What turns out to need no request waits for nothing.
type limited struct {
	api   API
	limit *rate.Limiter
}

// requestTimeout bounds one request.
const requestTimeout = 15 * time.Second

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
	return paced(ctx, l, func(ctx context.Context) (*corev1.Event, error) { return l.api.CreateEvent(ctx, e) })
}

func (l *limited) UpdateEvent(ctx context.Context, e *corev1.Event) (*corev1.Event, error) {
	return paced(ctx, l, func(ctx context.Context) (*corev1.Event, error) { return l.api.UpdateEvent(ctx, e) })
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
	return paced(ctx, l, func(ctx context.Context) (*v1.SecretProviderClassPodStatus, error) { return l.api.CreateStatus(ctx, s) })
}

func (l *limited) UpdateStatus(ctx context.Context, s *v1.SecretProviderClassPodStatus) (*v1.SecretProviderClassPodStatus, error) {
	return paced(ctx, l, func(ctx context.Context) (*v1.SecretProviderClassPodStatus, error) { return l.api.UpdateStatus(ctx, s) })
}

func (l *limited) DeleteStatus(ctx context.Context, s *v1.SecretProviderClassPodStatus) error {
	_, err := paced(ctx, l, func(ctx context.Context) (struct{}, error) { return struct{}{}, l.api.DeleteStatus(ctx, s) })
	return err
}
