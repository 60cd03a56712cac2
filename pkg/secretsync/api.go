package secretsync

import (
	"context"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/mayfly-csi/mayfly/pkg/kubeclient"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient/corev1"
)

// API is the part of the API server that the Syncer needs. Errors are the API server's.
type API interface {
	// Look returns the metadata of a Secret, nil if there is none. It writes nothing, and
	// needs only the right to patch.
	Look(ctx context.Context, namespace, name string) (*metav1.PartialObjectMetadata, error)
	// Apply applies an object without force, and returns the resulting metadata.
	Apply(ctx context.Context, namespace, name, manager string, object []byte) (*metav1.PartialObjectMetadata, error)
}

// lookManager is the field manager of Look. It never owns a field.
const lookManager = "mayfly-look"

// metadataOnly makes the API server answer without the data.
const metadataOnly = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"

type client struct{ rest *rest.RESTClient }

// NewAPI makes an API of the cluster's address and credentials. The Syncer
// limits the rate, so the client does not.
func NewAPI(cluster *rest.Config) (API, error) {
	c := rest.CopyConfig(cluster)
	c.AcceptContentTypes = metadataOnly
	out, err := kubeclient.New(c, corev1.SchemeGroupVersion, metav1.AddMetaToScheme)
	if err != nil {
		return nil, err
	}
	return &client{out}, nil
}

func (c *client) patch(namespace, name, manager string, object []byte) *rest.Request {
	return c.rest.Patch(types.ApplyYAMLPatchType).Namespace(namespace).Resource("secrets").Name(name).
		Param("fieldManager", manager).Body(object)
}

func (c *client) Look(ctx context.Context, namespace, name string) (*metav1.PartialObjectMetadata, error) {
	out, status := &metav1.PartialObjectMetadata{}, 0
	request := c.patch(namespace, name, lookManager, newApplied(namespace, name).encode()).Param("dryRun", metav1.DryRunAll)
	if err := request.Do(ctx).StatusCode(&status).Into(out); err != nil {
		return nil, err
	}
	if status == http.StatusCreated {
		return nil, nil // it would have been created
	}
	return out, nil
}

func (c *client) Apply(ctx context.Context, namespace, name, manager string, object []byte) (*metav1.PartialObjectMetadata, error) {
	out := &metav1.PartialObjectMetadata{}
	return out, c.patch(namespace, name, manager, object).Do(ctx).Into(out)
}
