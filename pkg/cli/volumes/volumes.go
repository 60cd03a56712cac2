// Package volumes lists the volumes of a cluster: from their SecretProviderClassPodStatuses, and
// from the nodes, which alone know ages, next refreshes and when credentials expire.
package volumes

import (
	"cmp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
)

// NotMounted is the state of a volume whose first mount fails. statusz has the other states.
const NotMounted = "NotMounted"

// Volume is one volume of one pod. All its text is printable.
type Volume struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Node      string `json:"node,omitempty"`
	Class     string `json:"class"`
	State     string `json:"state"`
	// Live says that the node described the volume. Otherwise only the objects and the failure are
	// known.
	Live bool `json:"live"`
	// Status is the name of its SecretProviderClassPodStatus; empty if there is none.
	Status       string           `json:"status,omitempty"`
	ClassVersion string           `json:"classVersion,omitempty"`
	Provider     string           `json:"provider,omitempty"`
	Store        string           `json:"store,omitempty"`
	AnsweredBy   string           `json:"answeredBy,omitempty"`
	Objects      []statusz.Object `json:"objects,omitempty"`
	// PublishedAt is the time of the first payload, RefreshedAt of the last successful refresh,
	// NextAt of the next one.
	PublishedAt time.Time `json:"publishedAt,omitzero"`
	RefreshedAt time.Time `json:"refreshedAt,omitzero"`
	NextAt      time.Time `json:"nextAt,omitzero"`
	Refreshing  bool      `json:"refreshing,omitempty"`
	// ExpiresAt is when its first credential expires.
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
	// Failures counts failed refreshes in a row. FailingSince is the time of the first.
	Failures     int              `json:"failures,omitempty"`
	FailingSince time.Time        `json:"failingSince,omitzero"`
	Failure      *statusz.Failure `json:"failure,omitempty"`

	target string
}

// Object is the volume's pod as the object of findings.
func (v *Volume) Object() finding.Object {
	return finding.Object{Kind: "Pod", Namespace: v.Namespace, Name: v.Pod}
}

// Same reports whether a and b are the same volume at two times.
func (v *Volume) Same(o *Volume) bool { return v.Node == o.Node && v.target == o.target }

// Failed reports whether something is wrong with the volume.
func (v *Volume) Failed() bool {
	switch v.State {
	case statusz.Failing, statusz.Emptied, NotMounted:
		return true
	}
	return false
}

// Reason is the reason of its failure; empty if it did not fail.
func (v *Volume) Reason() string {
	if v.Failure == nil {
		return ""
	}
	return cmp.Or(v.Failure.Reason, "Unknown")
}

// ofStatus returns the volume of a SecretProviderClassPodStatus.
func ofStatus(s *v1.SecretProviderClassPodStatus) Volume {
	p := finding.Printable
	v := Volume{
		Namespace: p(s.Namespace), Pod: p(s.Status.PodName), Class: p(s.Status.SecretProviderClassName), Status: p(s.Name),
		Node:        p(cmp.Or(s.Annotations[names.NodeAnnotation], s.Labels[v1.NodeLabel])),
		PublishedAt: s.CreationTimestamp.UTC(), target: s.Status.TargetPath,
	}
	for _, o := range s.Status.Objects {
		v.Objects = append(v.Objects, statusz.Object{ID: p(o.ID), Version: p(o.Version)})
	}
	switch ready := conditionOf(s, names.Ready); {
	case !s.Status.Mounted && ready != nil && ready.Message == names.EmptiedMessage:
		v.State = statusz.Emptied
	case !s.Status.Mounted:
		v.State = NotMounted
	case s.Status.Failing:
		v.State = statusz.Failing
	case s.Annotations[names.AsOfAnnotation] != "":
		v.State = statusz.FromMemory
	default:
		v.State = statusz.Fresh
	}
	if v.Failed() {
		v.Failure = &statusz.Failure{Reason: p(s.Annotations[names.ReasonAnnotation]), Message: p(s.Annotations[names.MessageAnnotation])}
		v.FailingSince, _ = time.Parse(time.RFC3339, s.Annotations[names.SinceAnnotation])
	}
	return v
}

func conditionOf(s *v1.SecretProviderClassPodStatus, kind string) *metav1.Condition {
	i := slices.IndexFunc(s.Status.Conditions, func(c metav1.Condition) bool { return c.Type == kind })
	if i < 0 {
		return nil
	}
	return &s.Status.Conditions[i]
}

// takeLive adds the node's description of the volume.
func (v *Volume) takeLive(node string, l *statusz.Volume) {
	p := finding.Printable
	v.Live, v.Node, v.State, v.target = true, node, p(l.State), l.Target
	v.Namespace, v.Pod, v.Class, v.ClassVersion = p(l.Namespace), p(l.Pod), p(l.Class), p(l.ClassVersion)
	v.Provider, v.Store, v.AnsweredBy = p(l.Provider), p(l.Store), p(l.AnsweredBy)
	v.PublishedAt, v.RefreshedAt, v.NextAt, v.Refreshing, v.ExpiresAt, v.Failures = l.PublishedAt, l.RefreshedAt, l.NextAt, l.Refreshing, l.ExpiresAt, l.Failures
	v.Objects = nil
	for _, o := range l.Objects {
		v.Objects = append(v.Objects, statusz.Object{ID: p(o.ID), Version: p(o.Version), ExpiresAt: o.ExpiresAt})
	}
	v.Failure = nil
	if l.Failure != nil {
		v.Failure = &statusz.Failure{At: l.Failure.At, Reason: p(l.Failure.Reason), Message: p(l.Failure.Message)}
	} else {
		v.FailingSince = time.Time{}
	}
}
