// Package cluster connects the commands of kubectl mayfly to a cluster: the flags of kubectl, typed
// clients, and a finding for what they could not read.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"

	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // the ways of logging in that kubeconfig files name
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient"
)

// DefaultDriver is the name of the CSIDriver object.
const DefaultDriver = "secrets-store.csi.k8s.io"

const (
	// queries and burst are the requests a second that a command may make.
	queries, burst = 50, 100
	// page is how many objects are listed at once.
	page = 500
)

// Flags are common to every command that reads a cluster. They mean the same as in kubectl.
type Flags struct {
	// DriverName is the name of the CSIDriver object of Mayfly.
	DriverName string
	// DriverNamespace is where the driver runs; empty to find it out.
	DriverNamespace string

	kubeconfig string
	overrides  clientcmd.ConfigOverrides
}

// Bind adds the flags to a set.
func (f *Flags) Bind(flags *pflag.FlagSet) {
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "the kubeconfig file (default $KUBECONFIG, else ~/.kube/config)")
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.ContextOverrideFlags.Namespace.ShortName = "n"
	before := map[string]bool{}
	flags.VisitAll(func(f *pflag.Flag) { before[f.Name] = true })
	clientcmd.BindOverrideFlags(&f.overrides, flags, names)
	shown := map[string]bool{clientcmd.FlagContext: true, clientcmd.FlagNamespace: true, clientcmd.FlagImpersonate: true, clientcmd.FlagImpersonateGroup: true, clientcmd.FlagTimeout: true}
	flags.VisitAll(func(f *pflag.Flag) {
		if !before[f.Name] && !shown[f.Name] {
			f.Hidden = true
		}
	})
	flags.StringVar(&f.DriverName, "driver-name", DefaultDriver, "the name of the CSIDriver object of Mayfly")
	flags.StringVar(&f.DriverNamespace, "driver-namespace", "", "the namespace that the driver runs in (default what the CSIDriver object's Helm annotation says, else kube-system)")
}

// Namespace is the value of -n; empty if it is not given.
func (f *Flags) Namespace() string { return f.overrides.Context.Namespace }

// Client connects to one cluster as one user.
type Client struct {
	kubernetes.Interface
	// Config is for other connections, such as port-forwards.
	Config *rest.Config
	// Namespace is the value of -n, else the namespace of the kubeconfig's context.
	Namespace string
	// DriverName is the name of the CSIDriver object of Mayfly.
	DriverName string

	driverNamespace string
	stores          rest.Interface
	requests        *atomic.Int64
}

// Connect reads the kubeconfig. It makes no request.
func (f *Flags) Connect(s output.Streams) (*Client, error) {
	config, err := f.loader().ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	namespace, err := f.CurrentNamespace()
	if err != nil {
		return nil, err
	}
	c := &Client{Namespace: namespace, DriverName: f.DriverName, driverNamespace: f.DriverNamespace, requests: &atomic.Int64{}}
	config.QPS, config.Burst = queries, burst
	config.UserAgent = "kubectl-mayfly/" + s.Version
	config.WarningHandler, config.WarningHandlerWithContext = rest.NoWarnings{}, nil
	config.Wrap(func(rt http.RoundTripper) http.RoundTripper { return &counter{rt, c.requests} })
	c.Config = config
	if c.Interface, err = kubernetes.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	c.stores, err = kubeclient.New(config, v1.GroupVersion(), v1.AddToScheme)
	return c, err
}

func (f *Flags) loader() clientcmd.ClientConfig {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &f.overrides)
}

// CurrentNamespace is the value of -n, else the namespace of the kubeconfig's context. It needs no
// cluster.
func (f *Flags) CurrentNamespace() (string, error) {
	namespace, _, err := f.loader().Namespace()
	if err != nil {
		return "", fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return namespace, nil
}

// counter counts the requests of a command.
type counter struct {
	next  http.RoundTripper
	count *atomic.Int64
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.count.Add(1)
	return c.next.RoundTrip(r)
}

// Requests is how many requests were made so far.
func (c *Client) Requests() int { return int(c.requests.Load()) }

// Class reads a class.
func (c *Client) Class(ctx context.Context, namespace, name string) (*v1.SecretProviderClass, error) {
	out := &v1.SecretProviderClass{}
	err := c.stores.Get().Namespace(namespace).Resource(v1.SecretProviderClassResource).Name(name).Do(ctx).Into(out)
	return out, err
}

// Classes lists the classes of a namespace, of all for an empty one.
func (c *Client) Classes(ctx context.Context, namespace string) ([]v1.SecretProviderClass, error) {
	var all []v1.SecretProviderClass
	err := Pages(func(o metav1.ListOptions) (string, error) {
		list := &v1.SecretProviderClassList{}
		err := c.stores.Get().Namespace(namespace).Resource(v1.SecretProviderClassResource).
			VersionedParams(&o, metav1.ParameterCodec).Do(ctx).Into(list)
		all = append(all, list.Items...)
		return list.Continue, err
	})
	return all, err
}

// PodStatuses lists the SecretProviderClassPodStatuses of a namespace, of all for an empty one,
// that a label selector matches.
func (c *Client) PodStatuses(ctx context.Context, namespace, selector string) ([]v1.SecretProviderClassPodStatus, error) {
	var all []v1.SecretProviderClassPodStatus
	err := Pages(func(o metav1.ListOptions) (string, error) {
		o.LabelSelector = selector
		list := &v1.SecretProviderClassPodStatusList{}
		err := c.stores.Get().Namespace(namespace).Resource(v1.SecretProviderClassPodStatusResource).
			VersionedParams(&o, metav1.ParameterCodec).Do(ctx).Into(list)
		all = append(all, list.Items...)
		return list.Continue, err
	})
	return all, err
}

// Stores is the client of the classes and the pods' statuses, for requests
// that have no method here.
func (c *Client) Stores() rest.Interface { return c.stores }

// Pages calls list for each page of a list until there is no continue token.
func Pages(list func(o metav1.ListOptions) (next string, err error)) error {
	o := metav1.ListOptions{Limit: page}
	for {
		next, err := list(o)
		if err != nil || next == "" {
			return err
		}
		o.Continue = next
	}
}

// NotSeen reports what could not be read, and why. An absent object was read, so the caller checks
// for that first.
func NotSeen(r *finding.Report, what finding.Object, err error) {
	f := finding.Finding{Object: what, Message: "could not be read: " + Reason(err)}
	if !apierrors.IsForbidden(err) {
		f.Remedy = "check whether kubectl reaches the cluster, and run the command again"
	}
	r.Add(finding.CodeNotReadable, f)
}

// Reason is the error of the API server or the connection, without client-go's own text around it.
func Reason(err error) string {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return status.Status().Message
	}
	return err.Error()
}
