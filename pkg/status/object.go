package status

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// ownAnnotations are all that the driver writes; others may write more.
var ownAnnotations = [...]string{names.ReasonAnnotation, names.MessageAnnotation, names.SinceAnnotation, names.AsOfAnnotation, names.ObjectsAnnotation, names.WarningsAnnotation, names.NodeAnnotation}

// ownLabels are all that the driver writes.
var ownLabels = [...]string{v1.NodeLabel, names.DriverLabel}

const (
	// maxName is the API server's limit for the name of an object.
	maxName = 253
	// maxObjectsBytes bounds the objects in one status, as JSON: about a hundred of the usual size.
	// The author of a class chooses how many there are and how long their names are, and every
	// change is written to etcd.
	maxObjectsBytes = 8 << 10
)

// desired returns the object for a volume's state. before is the earlier one, which has the time of
// the first failure.
func (c *Config) desired(o volume.Outcome, objects []v1.SecretProviderClassObject, before *v1.SecretProviderClassPodStatus) *v1.SecretProviderClassPodStatus {
	s := &v1.SecretProviderClassPodStatus{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: o.Pod.Namespace,
			Name:      plainName(o.Pod.Name, o.Pod.Namespace, o.Class.Name),
			Labels:    map[string]string{v1.NodeLabel: nodeLabel(c.Node)},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Pod", Name: o.Pod.Name, UID: uid(o.Pod.UID),
			}},
		},
		Status: v1.SecretProviderClassPodStatusStatus{
			PodName: o.Pod.Name, SecretProviderClassName: o.Class.Name, TargetPath: o.Target, Objects: objects,
		},
	}
	var former []metav1.Condition
	if before != nil {
		former = before.Status.Conditions
	}
	s.Status.Conditions = conditionsOf(o, former)
	s.Status.Mounted = conditionOf(s.Status.Conditions, names.Ready).Status == metav1.ConditionTrue
	s.Status.Failing = o.Err != nil
	if c.Driver != "" {
		s.Labels[names.DriverLabel] = c.Driver
	}
	if name := nodeAnnotation(c.Node); name != "" {
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, names.NodeAnnotation, name)
	}
	if len(objects) == 1 && objects[0].ID == names.DigestID {
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, names.ObjectsAnnotation, fmt.Sprintf(
			"the names and versions of %d objects are larger than %d bytes; the entry %s changes when one of them does", len(o.Versions), maxObjectsBytes, names.DigestID))
	}
	if !o.AsOf.IsZero() {
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, names.AsOfAnnotation, o.AsOf.UTC().Format(time.RFC3339))
	}
	if len(o.Warnings) > 0 {
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, names.WarningsAnnotation, clip(strings.Join(o.Warnings, "; ")))
	}
	if o.Err != nil {
		describeFailure(s, o, before)
	}
	return s
}

func describeFailure(s *v1.SecretProviderClassPodStatus, o volume.Outcome, before *v1.SecretProviderClassPodStatus) {
	since := time.Now().UTC().Format(time.RFC3339)
	if before != nil && before.Annotations[names.SinceAnnotation] != "" {
		since = before.Annotations[names.SinceAnnotation]
	}
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, names.ReasonAnnotation, string(o.Reason()))
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, names.SinceAnnotation, since)
	metav1.SetMetaDataAnnotation(&s.ObjectMeta, names.MessageAnnotation, clip(o.Err.Error()))
	if before != nil && before.Annotations[names.ReasonAnnotation] == string(o.Reason()) {
		// One write per series of failures: the text may have a request's id or a time.
		s.Annotations[names.MessageAnnotation] = before.Annotations[names.MessageAnnotation]
	}
}

// objectsOf returns the objects of a volume in the order of their ids. If they are too large, one
// entry with their digest replaces them: tools that hash ids and versions still see a rotation.
func objectsOf(versions []provider.Version) []v1.SecretProviderClassObject {
	var out []v1.SecretProviderClassObject
	size := 0
	for _, v := range versions {
		out = append(out, v1.SecretProviderClassObject{ID: v.ID, Version: v.Version})
		size += len(v.ID) + len(v.Version)
	}
	slices.SortFunc(out, func(a, b v1.SecretProviderClassObject) int { return strings.Compare(a.ID, b.ID) })
	if size <= maxObjectsBytes {
		if text, _ := json.Marshal(out); len(text) <= maxObjectsBytes { // strings always encode
			return out
		}
	}
	return []v1.SecretProviderClassObject{{ID: names.DigestID, Version: provider.Digest(versions)}}
}

// nodeLabel returns the name of a node as the value of a label. A long name is truncated and gets a
// hash; NodeAnnotation then has the whole name. The chart's ValidatingAdmissionPolicy knows the
// length of the truncated name.
func nodeLabel(node string) string { return names.Shorten(node, names.MaxLabel) }

// nodeAnnotation is empty if the label has the whole name.
func nodeAnnotation(node string) string {
	if len(node) <= names.MaxLabel {
		return ""
	}
	return node
}

// plainName is the name that the ecosystem's tools expect.
func plainName(pod, namespace, class string) string {
	name := pod + "-" + namespace + "-" + class
	if len(name) > maxName {
		return suffixedName(name, name)
	}
	return name
}

// suffixedName makes a name unambiguous: pod a with class x-b and pod a-x with
// class b would otherwise share one.
func suffixedName(name, identity string) string {
	suffix := names.HashSuffix(identity)
	return strings.TrimRight(name[:min(len(name), maxName-len(suffix))], "-.") + suffix
}

func withSuffix(s *v1.SecretProviderClassPodStatus, id string) *v1.SecretProviderClassPodStatus {
	out := s.DeepCopy()
	out.Name = suffixedName(s.Name, id)
	return out
}

// sameVolume distinguishes an object of this pod and class, or of a dead pod of the same name on
// this node, from another volume's. The driver of another node deletes its own objects, and the
// chart's ValidatingAdmissionPolicy refuses to let this one change them.
func sameVolume(want, have *v1.SecretProviderClassPodStatus) bool {
	return have.Status.PodName == want.Status.PodName && have.Status.SecretProviderClassName == want.Status.SecretProviderClassName &&
		have.Labels[v1.NodeLabel] == want.Labels[v1.NodeLabel] && have.Annotations[names.NodeAnnotation] == want.Annotations[names.NodeAnnotation]
}

// merged returns have with the driver's part of want; it keeps what others have written.
func merged(want, have *v1.SecretProviderClassPodStatus) *v1.SecretProviderClassPodStatus {
	next := have.DeepCopy()
	next.Status = *want.Status.DeepCopy()
	next.Status.Conditions = mergedConditions(next.Status.Conditions, have.Status.Conditions)
	next.OwnerReferences = want.OwnerReferences
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	maps.Copy(next.Labels, want.Labels)
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	for _, key := range ownAnnotations {
		delete(next.Annotations, key)
	}
	maps.Copy(next.Annotations, want.Annotations)
	return next
}

// equal compares what the driver writes, and nothing else.
func equal(a, b *v1.SecretProviderClassPodStatus) bool {
	return sameConditions(a, b) && slices.Equal(a.Status.Objects, b.Status.Objects)
}

// sameConditions leaves out the versions of the objects.
func sameConditions(a, b *v1.SecretProviderClassPodStatus) bool {
	if a.Status.PodName != b.Status.PodName || a.Status.SecretProviderClassName != b.Status.SecretProviderClassName ||
		a.Status.Mounted != b.Status.Mounted || a.Status.Failing != b.Status.Failing || a.Status.TargetPath != b.Status.TargetPath ||
		!equalConditions(a.Status.Conditions, b.Status.Conditions) {
		return false
	}
	for _, key := range ownLabels {
		if a.Labels[key] != b.Labels[key] {
			return false
		}
	}
	for _, key := range ownAnnotations {
		if key != names.ObjectsAnnotation && a.Annotations[key] != b.Annotations[key] {
			return false
		}
	}
	return len(a.OwnerReferences) == len(b.OwnerReferences) && (len(a.OwnerReferences) == 0 || a.OwnerReferences[0].UID == b.OwnerReferences[0].UID)
}
