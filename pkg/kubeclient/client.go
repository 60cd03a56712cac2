// Package kubeclient makes small clients of the API server, each for the few kinds that its caller
// needs: a typed clientset would link every kind of Kubernetes into the program.
package kubeclient

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
)

// New makes a client for one API group, which speaks JSON. add adds to the scheme the kinds that
// the client decodes; nil for none. The client limits the rate only if cluster.QPS is set, and
// accepts other answers than JSON only if cluster.AcceptContentTypes is set.
func New(cluster *rest.Config, group schema.GroupVersion, add func(*runtime.Scheme) error) (*rest.RESTClient, error) {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, group)
	if add != nil {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("building the scheme of %s: %w", group, err)
		}
	}
	c := rest.CopyConfig(cluster)
	c.GroupVersion, c.APIPath = &group, "/apis"
	if group.Group == "" {
		c.APIPath = "/api"
	}
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, cmp.Or(cluster.AcceptContentTypes, runtime.ContentTypeJSON)
	if c.RateLimiter = nil; c.QPS == 0 {
		c.RateLimiter = flowcontrol.NewFakeAlwaysRateLimiter()
	}
	client, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("making a client for %s: %w", group, err)
	}
	return client, nil
}

// Get reads an object whose kind is in no scheme.
func Get(ctx context.Context, r *rest.Request, object any) error {
	answer := r.Do(ctx)
	if err := answer.Error(); err != nil { // which has the server's words, unlike that of Raw
		return err
	}
	text, err := answer.Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, object); err != nil {
		return fmt.Errorf("reading the API server's answer: %w", err)
	}
	return nil
}

// Kinds returns a function for New that adds kinds of a group.
func Kinds(group schema.GroupVersion, kinds ...runtime.Object) func(*runtime.Scheme) error {
	return func(s *runtime.Scheme) error {
		s.AddKnownTypes(group, kinds...)
		return nil
	}
}
