package status

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// The annotations that make a failing volume visible, and one that holds what
// the node had in memory.
const (
	ReasonAnnotation  = "mayfly.dev/failure-reason"
	MessageAnnotation = "mayfly.dev/failure-message"
	SinceAnnotation   = "mayfly.dev/failing-since"
	AsOfAnnotation    = "mayfly.dev/last-good-as-of"
)

// ownAnnotations are all that the driver writes; others are other people's.
var ownAnnotations = [...]string{ReasonAnnotation, MessageAnnotation, SinceAnnotation, AsOfAnnotation}

// maxName is the API server's limit for the name of an object.
const maxName = 253

// volumeState is what is to be written of a volume, and what was.
type volumeState struct {
	want *v1.SecretProviderClassPodStatus // nil: the volume is gone
	have *v1.SecretProviderClassPodStatus // as the API server gave it back; nil if unknown
	// suffixed tells that the plain name belongs to another volume.
	suffixed bool
}

func (r *Reporter) observeStatus(o volume.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.volumes[o.Volume]
	switch o.Kind {
	case volume.Published, volume.Recovered:
		if o.Err != nil {
			return // nothing is mounted; the Event tells why
		}
		if st == nil {
			st = &volumeState{}
			r.volumes[o.Volume] = st
		}
		st.want = r.desired(o, nil)
	case volume.Refreshed:
		if st == nil || st.want == nil {
			return
		}
		want := r.desired(o, st.want)
		if equal(want, st.want) {
			return
		}
		st.want = want
	case volume.Unpublished:
		if st == nil || o.Err != nil {
			return
		}
		st.want = nil
	default:
		return
	}
	r.queue.Add(task{writeStatus, o.Volume})
}

// desired is the object for a volume's state. before is what it was, for the
// time since which it fails.
func (r *Reporter) desired(o volume.Outcome, before *v1.SecretProviderClassPodStatus) *v1.SecretProviderClassPodStatus {
	s := &v1.SecretProviderClassPodStatus{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: o.Pod.Namespace,
			Name:      plainName(o.Pod.Name, o.Pod.Namespace, o.Class.Name),
			Labels:    map[string]string{v1.NodeLabel: r.Node},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Pod", Name: o.Pod.Name, UID: uid(o.Pod.UID),
			}},
		},
		Status: v1.SecretProviderClassPodStatusStatus{
			PodName: o.Pod.Name, SecretProviderClassName: o.Class.Name, Mounted: true, TargetPath: o.Target,
		},
	}
	for _, v := range o.Versions {
		s.Status.Objects = append(s.Status.Objects, v1.SecretProviderClassObject{ID: v.ID, Version: v.Version})
	}
	slices.SortFunc(s.Status.Objects, func(a, b v1.SecretProviderClassObject) int { return strings.Compare(a.ID, b.ID) })
	if !o.AsOf.IsZero() {
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, AsOfAnnotation, o.AsOf.UTC().Format(time.RFC3339))
	}
	if o.Err != nil {
		since := time.Now().UTC().Format(time.RFC3339)
		if before != nil && before.Annotations[SinceAnnotation] != "" {
			since = before.Annotations[SinceAnnotation]
		}
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, ReasonAnnotation, string(o.Reason()))
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, SinceAnnotation, since)
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, MessageAnnotation, clip(o.Err.Error()))
		if before != nil && before.Annotations[ReasonAnnotation] == string(o.Reason()) {
			// One write per episode: the words may hold a request's id or a time.
			s.Annotations[MessageAnnotation] = before.Annotations[MessageAnnotation]
		}
	}
	return s
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
	sum := sha256.Sum256([]byte(identity))
	suffix := "-" + hex.EncodeToString(sum[:5])
	return strings.TrimRight(name[:min(len(name), maxName-len(suffix))], "-.") + suffix
}

// syncStatus makes the API server's object what is wanted, with one request
// where it is what we think it is.
func (r *Reporter) syncStatus(ctx context.Context, id string) error {
	r.mu.Lock()
	st := r.volumes[id]
	if st == nil {
		r.mu.Unlock()
		return nil
	}
	want, have, suffixed := st.want, st.have, st.suffixed
	r.mu.Unlock()
	if want == nil {
		return r.removeStatus(ctx, id, have)
	}
	if suffixed {
		want = withSuffix(want, id)
	}
	got, err := r.writeStatus(ctx, want, have)
	r.mu.Lock()
	defer r.mu.Unlock()
	st.have = got
	switch {
	case errors.Is(err, errTaken):
		st.have, st.suffixed = nil, true
		r.queue.Add(task{writeStatus, id})
		return nil
	case have == nil && namespaceGone(err): // and the pod with it
		delete(r.volumes, id)
		return nil
	case err != nil:
		st.have = nil // look before the next write
	}
	return err
}

// takeUp finds, with one request, what an earlier process wrote of the volumes
// that this one recovered, so that nothing is written again that is the same.
// Without it each volume is asked for by itself.
func (r *Reporter) takeUp(ctx context.Context) {
	r.mu.Lock()
	recovered := len(r.volumes)
	r.mu.Unlock()
	if recovered == 0 {
		return
	}
	found, err := r.API.ListStatuses(ctx, r.Node)
	if err != nil {
		r.Logger.Warn("listing this node's SecretProviderClassPodStatuses failed; each is asked for by itself", "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, st := range r.volumes {
		for i := range found {
			if have := &found[i]; st.want != nil && have.Namespace == st.want.Namespace && sameVolume(st.want, have) {
				st.have, st.suffixed = have, have.Name == suffixedName(st.want.Name, id)
			}
		}
	}
}

func withSuffix(s *v1.SecretProviderClassPodStatus, id string) *v1.SecretProviderClassPodStatus {
	out := s.DeepCopy()
	out.Name = suffixedName(s.Name, id)
	return out
}

func (r *Reporter) removeStatus(ctx context.Context, id string, have *v1.SecretProviderClassPodStatus) error {
	if have != nil {
		if err := r.API.DeleteStatus(ctx, have); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if st := r.volumes[id]; st != nil && st.want == nil {
		delete(r.volumes, id)
	}
	return nil
}

// errTaken asks for a name with a suffix.
var errTaken = errors.New("the name belongs to another volume")

func (r *Reporter) writeStatus(ctx context.Context, want, have *v1.SecretProviderClassPodStatus) (*v1.SecretProviderClassPodStatus, error) {
	if have == nil {
		made, err := r.API.CreateStatus(ctx, want)
		if err == nil || !apierrors.IsAlreadyExists(err) {
			return made, err
		}
		if have, err = r.API.GetStatus(ctx, want.Namespace, want.Name); err != nil {
			return nil, err
		}
		if !sameVolume(want, have) {
			return nil, errTaken
		}
	}
	if equal(want, have) {
		return have, nil
	}
	next := have.DeepCopy()
	next.Status = want.Status
	next.OwnerReferences = want.OwnerReferences
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	maps.Copy(next.Labels, want.Labels)
	next.Annotations = mergeAnnotations(have.Annotations, want.Annotations)
	return r.API.UpdateStatus(ctx, next)
}

// sameVolume tells an object of this pod and class, or of a dead pod of the
// same name, from another volume's.
func sameVolume(want, have *v1.SecretProviderClassPodStatus) bool {
	return have.Status.PodName == want.Status.PodName && have.Status.SecretProviderClassName == want.Status.SecretProviderClassName
}

// mergeAnnotations keeps other people's.
func mergeAnnotations(have, want map[string]string) map[string]string {
	out := maps.Clone(have)
	if out == nil {
		out = map[string]string{}
	}
	for _, key := range ownAnnotations {
		delete(out, key)
	}
	maps.Copy(out, want)
	return out
}

// equal compares what the driver writes, and nothing else.
func equal(a, b *v1.SecretProviderClassPodStatus) bool {
	if a.Status.PodName != b.Status.PodName || a.Status.SecretProviderClassName != b.Status.SecretProviderClassName ||
		a.Status.Mounted != b.Status.Mounted || a.Status.TargetPath != b.Status.TargetPath ||
		!slices.Equal(a.Status.Objects, b.Status.Objects) || a.Labels[v1.NodeLabel] != b.Labels[v1.NodeLabel] {
		return false
	}
	for _, key := range ownAnnotations {
		if a.Annotations[key] != b.Annotations[key] {
			return false
		}
	}
	return len(a.OwnerReferences) == len(b.OwnerReferences) && (len(a.OwnerReferences) == 0 || a.OwnerReferences[0].UID == b.OwnerReferences[0].UID)
}
