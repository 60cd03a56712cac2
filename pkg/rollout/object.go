package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient/corev1"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
)

// Object is what is read of a workload of any kind.
type Object struct {
	Kind     string            `json:"-"`
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		// Replicas is not there for a DaemonSet, and 1 where it is left out.
		Replicas *int32 `json:"replicas"`
		Paused   bool   `json:"paused"`
		Template struct {
			Metadata struct {
				Annotations map[string]string `json:"annotations"`
			} `json:"metadata"`
		} `json:"template"`
		UpdateStrategy struct {
			Type string `json:"type"`
		} `json:"updateStrategy"`
	} `json:"spec"`
	Status struct {
		ObservedGeneration     int64 `json:"observedGeneration"`
		Replicas               int32 `json:"replicas"`
		UpdatedReplicas        int32 `json:"updatedReplicas"`
		DesiredNumberScheduled int32 `json:"desiredNumberScheduled"`
		UpdatedNumberScheduled int32 `json:"updatedNumberScheduled"`
	} `json:"status"`
}

// group is that of all workloads.
var group = schema.GroupVersion{Group: "apps", Version: "v1"}

// Reference is the workload as the object of an Event.
func (o *Object) Reference() corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: group.String(), Kind: o.Kind, Namespace: o.Metadata.Namespace, Name: o.Metadata.Name, UID: o.Metadata.UID}
}

func (o *Object) onDelete() bool { return o.Spec.UpdateStrategy.Type == "OnDelete" }

// rolledOut tells whether all pods are of the template as it is now. Whether they are
// ready is not asked: a pod that is not may be waiting for the restart.
func (o *Object) rolledOut() bool {
	if o.Status.ObservedGeneration < o.Metadata.Generation {
		return false
	}
	if o.Kind == "DaemonSet" {
		return o.Status.UpdatedNumberScheduled >= o.Status.DesiredNumberScheduled
	}
	want := int32(1)
	if o.Spec.Replicas != nil {
		want = *o.Spec.Replicas
	}
	return o.Status.UpdatedReplicas >= want && o.Status.Replicas <= o.Status.UpdatedReplicas
}

// Mark is the value of the annotation.
type Mark struct {
	Hash string
	At   time.Time
}

// String is what the annotation holds: time and hash.
func (m Mark) String() string { return m.At.UTC().Format(time.RFC3339) + " " + m.Hash }

func parseMark(text string) (Mark, bool) {
	at, hash, ok := strings.Cut(text, " ")
	t, err := time.Parse(time.RFC3339, at)
	return Mark{hash, t}, ok && err == nil
}

func (o *Object) mark(key string) (Mark, bool) {
	return parseMark(o.Spec.Template.Metadata.Annotations[key])
}

// lastRestart is the last for any class.
func (o *Object) lastRestart() (last time.Time) {
	for key, value := range o.Spec.Template.Metadata.Annotations {
		if m, ok := parseMark(value); ok && strings.HasPrefix(key, names.RestartPrefix) && m.At.After(last) {
			last = m.At
		}
	}
	return last
}

// maxKeyName is the API server's limit for the name of an annotation behind its prefix.
const maxKeyName = 63

// KeyOf is the annotation of the pod template for a class.
func KeyOf(c class.Ref) string { return names.RestartPrefix + names.Shorten(c.Name, maxKeyName) }

type client struct{ rest *rest.RESTClient }

// NewAPI makes an API of the cluster's address and credentials.
func NewAPI(cluster *rest.Config) (API, error) {
	out, err := kubeclient.New(cluster, group, nil)
	if err != nil {
		return nil, err
	}
	return &client{out}, nil
}

func resource(kind string) string { return strings.ToLower(kind) + "s" }

func (c *client) Get(ctx context.Context, namespace string, w class.Workload) (*Object, error) {
	o := &Object{Kind: w.Kind}
	if err := kubeclient.Get(ctx, c.rest.Get().Namespace(namespace).Resource(resource(w.Kind)).Name(w.Name), o); err != nil {
		return nil, err
	}
	return o, nil
}

func (c *client) Annotate(ctx context.Context, o *Object, key, value string) error {
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": o.Metadata.ResourceVersion, "uid": o.Metadata.UID},
		"spec":     map[string]any{"template": map[string]any{"metadata": map[string]any{"annotations": map[string]string{key: value}}}},
	})
	if err != nil {
		return fmt.Errorf("encoding a patch: %w", err)
	}
	return c.rest.Patch(types.MergePatchType).Namespace(o.Metadata.Namespace).Resource(resource(o.Kind)).Name(o.Metadata.Name).
		Param("fieldManager", "mayfly").Body(body).Do(ctx).Error()
}
