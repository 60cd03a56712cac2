package secretsync

import (
	"encoding/json"
	"maps"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/secretsync/ownership"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
)

// ownerManager returns the field manager of one pod's owner reference. Each pod has its
// own, because an apply removes what its manager has applied before and does not name
// again.
func ownerManager(c class.Ref, pod identity.Pod) string {
	return names.Shorten("mayfly-owner:"+pod.UID+":"+c.Name, ownership.MaxManager)
}

// classLabel returns a class's name as a label value.
func classLabel(c class.Ref) string { return names.Shorten(c.Name, names.MaxLabel) }

// applied is a Secret in the form in which it is applied.
type applied struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   appliedMeta       `json:"metadata"`
	Type       string            `json:"type,omitempty"`
	Data       map[string][]byte `json:"data,omitempty"`
}

type appliedMeta struct {
	Namespace       string                  `json:"namespace"`
	Name            string                  `json:"name"`
	UID             types.UID               `json:"uid,omitempty"`
	ResourceVersion string                  `json:"resourceVersion,omitempty"`
	Labels          map[string]string       `json:"labels,omitempty"`
	Annotations     map[string]string       `json:"annotations,omitempty"`
	OwnerReferences []metav1.OwnerReference `json:"ownerReferences,omitempty"`
}

func newApplied(namespace, name string) *applied {
	return &applied{APIVersion: "v1", Kind: "Secret", Metadata: appliedMeta{Namespace: namespace, Name: name}}
}

func (a *applied) encode() []byte {
	text, err := json.Marshal(a)
	if err != nil {
		panic("secretsync: encoding a Secret: " + err.Error()) // strings and bytes always encode
	}
	return text
}

// apply returns the wanted Secret, as this node replaces the existing one; nil for none.
func (w *wanted) apply(node string, found *metav1.PartialObjectMetadata) *applied {
	a := newApplied(w.class.Namespace, w.entry.SecretName)
	a.Type, a.Data = w.entry.Type, w.data
	a.Metadata.Labels = with(w.labels, map[string]string{names.ManagedLabel: "true", names.ClassLabel: classLabel(w.class.Ref)})
	own := map[string]string{
		names.NodeAnnotation: node, names.DigestAnnotation: w.digest, names.ClassVersionAnnotation: w.classVersion,
		names.ReadAtAnnotation: w.readAt.UTC().Format(time.RFC3339Nano),
	}
	if !w.expires.IsZero() {
		own[names.ExpiresAnnotation] = w.expires.UTC().Format(time.RFC3339)
	}
	a.Metadata.Annotations = with(w.annotations, own)
	a.Metadata.OwnerReferences = w.owners()
	if found != nil {
		a.Metadata.UID, a.Metadata.ResourceVersion = found.UID, found.ResourceVersion
	}
	return a
}

// owners returns the owner of the content: the class, if it is from the API server.
func (w *wanted) owners() []metav1.OwnerReference {
	if w.class.SecretOwner == class.OwnerPods || w.class.UID == "" {
		return nil
	}
	return []metav1.OwnerReference{{
		APIVersion: v1.GroupVersion().String(), Kind: "SecretProviderClass", Name: w.class.Name, UID: types.UID(w.class.UID),
	}}
}

// applyOwner makes a pod an owner of an existing Secret.
func (w *wanted) applyOwner(pod identity.Pod, uid types.UID) *applied {
	a := newApplied(w.class.Namespace, w.entry.SecretName)
	a.Metadata.UID = uid
	a.Metadata.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: types.UID(pod.UID)}}
	return a
}

func with(theirs, own map[string]string) map[string]string {
	all := maps.Clone(theirs)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, own)
	return all
}
