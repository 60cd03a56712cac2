package kube

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fair"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient"
)

const (
	// failedText begins every error about a class. People's alerts and tests
	// look for it in the pod's events.
	failedText = "failed to get secretproviderclass %s: %w"
	// minWatch is the shortest duration of a watch; up to as much is added. Opening
	// it again detects connections that were lost without an error.
	minWatch = 5 * time.Minute
	// lookUps bounds the concurrent lists, and the watches that are being opened;
	// lookUpsEach bounds those of one namespace, so that a namespace whose classes
	// are asked for again and again does not fill the queue of the rate limit.
	lookUps, lookUpsEach = 16, 8
	// watchSlack is how long the server may take to end a watch after its duration.
	watchSlack = 30 * time.Second
)

// client sends requests to the API server.
type client struct {
	rest    rest.Interface
	timeout time.Duration
	// listing and opening bound the requests of each namespace.
	listing, opening *fair.Semaphore
}

func newClient(c Config) (*client, error) {
	cfg := rest.CopyConfig(c.REST)
	cfg.QPS, cfg.Burst = c.QPS, c.Burst
	cfg.Timeout = 0 // it would end the watches
	cfg.WarningHandler, cfg.WarningHandlerWithContext = rest.NoWarnings{}, nil
	rc, err := kubeclient.New(cfg, v1.GroupVersion(), v1.AddToScheme)
	if err != nil {
		return nil, err
	}
	return &client{rest: rc, timeout: c.Timeout, listing: fair.New(lookUps, lookUpsEach), opening: fair.New(lookUps, lookUpsEach)}, nil
}

func (c *client) request(ref class.Ref) *rest.Request {
	name := fields.OneTermEqualSelector("metadata.name", ref.Name).String()
	return c.rest.Get().Namespace(ref.Namespace).Resource(v1.SecretProviderClassResource).
		MaxRetries(0). // the caller knows how long it can wait
		Param("fieldSelector", name)
}

// list returns the class, nil if there is none, and the version to watch from.
func (c *client) list(ctx context.Context, ref class.Ref) (*v1.SecretProviderClass, string, error) {
	if err := c.listing.Acquire(ctx, ref.Namespace); err != nil {
		return nil, "", err
	}
	defer c.listing.Release(ref.Namespace)
	var list v1.SecretProviderClassList
	if err := c.request(ref).Do(ctx).Into(&list); err != nil {
		return nil, "", err
	}
	for i := range list.Items {
		if list.Items[i].Name == ref.Name {
			return &list.Items[i], list.ResourceVersion, nil
		}
	}
	return nil, list.ResourceVersion, nil
}

// watch opens a watch from a version. The caller must call stop.
func (c *client) watch(ctx context.Context, ref class.Ref, version string) (events <-chan watch.Event, stop func(), err error) {
	if err := c.opening.Acquire(ctx, ref.Namespace); err != nil {
		return nil, nil, err
	}
	defer c.opening.Release(ref.Namespace)
	// client-go does not rate-limit watches, and all those of a node end together
	// when the API server restarts.
	if err := c.rest.GetRateLimiter().Wait(ctx); err != nil {
		return nil, nil, err
	}
	lasts := minWatch + rand.N(minWatch)
	ctx, cancel := context.WithTimeout(ctx, lasts+watchSlack)
	opening := time.AfterFunc(c.timeout, cancel)
	w, err := c.request(ref).
		Param("watch", "true").
		Param("allowWatchBookmarks", "true").
		Param("resourceVersion", version).
		Param("timeoutSeconds", strconv.Itoa(int(lasts.Seconds()))).
		Watch(ctx)
	if !opening.Stop() {
		err = context.DeadlineExceeded
	}
	if _, open := w.(*watch.StreamWatcher); err == nil && !open {
		err = errNoWatch
	}
	if err != nil {
		if w != nil {
			w.Stop()
		}
		cancel()
		return nil, nil, err
	}
	return w.ResultChan(), func() { w.Stop(); cancel() }, nil
}

// errNoWatch replaces the network errors for which client-go returns an empty watch.
var errNoWatch = errors.New("the connection was cut or timed out")

// gone tells whether a version is too old to watch from.
func gone(err error) bool { return apierrors.IsResourceExpired(err) || apierrors.IsGone(err) }

// reason returns the reason of a failed call, "" for success.
func reason(err error) fault.Reason {
	var status apierrors.APIStatus
	switch {
	case err == nil:
		return ""
	case errors.Is(err, context.Canceled):
		return fault.Canceled
	case errors.Is(err, context.DeadlineExceeded), apierrors.IsTimeout(err), apierrors.IsServerTimeout(err):
		return fault.Timeout
	case apierrors.IsTooManyRequests(err):
		return fault.RateLimited
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return fault.NotAllowed
	case apierrors.IsNotFound(err):
		return fault.ClassNotFound
	case runtime.IsNotRegisteredError(err), runtime.IsMissingKind(err), runtime.IsMissingVersion(err):
		return fault.BadAnswer
	case errors.As(err, &status) && status.Status().Code < http.StatusInternalServerError:
		return fault.BadAnswer // it is a list of one object: there is nothing to refuse
	}
	return fault.Unavailable
}

// failed makes the error for the pod's author.
func failed(ref class.Ref, err error) error {
	f := fault.New(reason(err), failedText, ref, err)
	switch {
	case apierrors.IsForbidden(err):
		f.WithHint("the driver's service account needs the verbs list and watch on %s.%s", v1.SecretProviderClassResource, v1.GroupName)
	case apierrors.IsUnauthorized(err):
		f.WithHint("the API server does not accept the driver's own credentials")
	case apierrors.IsNotFound(err):
		f.WithHint("is the CustomResourceDefinition %s.%s installed?", v1.SecretProviderClassResource, v1.GroupName)
	}
	f.RetryAfter = retryAfter(err)
	return f
}

// retryAfter is when to retry, as the API server asked; 0 if it did not ask.
func retryAfter(err error) time.Duration {
	seconds, _ := apierrors.SuggestsClientDelay(err)
	return time.Duration(seconds) * time.Second
}

// absent is the error for a class that does not exist.
func absent(ref class.Ref) error {
	err := fmt.Errorf("%s.%s %q not found", v1.SecretProviderClassResource, v1.GroupName, ref.Name)
	return fault.New(fault.ClassNotFound, failedText, ref, err).
		WithHint("a class must be in the namespace of the pod, %s", ref.Namespace)
}

// validRef refuses names that no class can have: a pod can ask for any name.
func validRef(ref class.Ref) error {
	for _, m := range validation.IsDNS1123Label(ref.Namespace) {
		return fmt.Errorf("%q cannot be a namespace: %s", ref.Namespace, m)
	}
	for _, m := range validation.IsDNS1123Subdomain(ref.Name) {
		return fmt.Errorf("%q cannot be the name of a class: %s", ref.Name, m)
	}
	return nil
}
