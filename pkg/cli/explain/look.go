package explain

import (
	"context"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
)

// seen is one source: its content, or why it could not be read.
type seen[T any] struct {
	value T
	err   error
	asked bool
}

// known says that the source was read, whether or not it has content.
func (s *seen[T]) known() bool { return s.asked && s.err == nil }

func (s *seen[T]) set(value T, err error) { s.value, s.err, s.asked = value, err, true }

// look is what was read for one pod. Pointers are nil if there is no such object.
type look struct {
	*cluster.Client
	now time.Time

	pod        *corev1.Pod
	events     seen[[]corev1.Event]
	node       seen[*corev1.Node]
	csiNode    seen[*storagev1.CSINode]
	csiDriver  seen[*storagev1.CSIDriver]
	driver     seen[*corev1.Pod] // the driver's pod on the node
	namespace  string            // of the driver
	daemonSets seen[[]appsv1.DaemonSet]
	nodes      seen[[]corev1.Node] // of a pod that taints keep from them
	classes    seen[[]v1.SecretProviderClass]
	statuses   seen[[]v1.SecretProviderClassPodStatus]
	account    seen[*corev1.ServiceAccount]
	live       seen[statusz.Status]
}

// orNil returns nil for an object that does not exist.
func orNil[T any](o *T, err error) (*T, error) {
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return o, err
}

// at reads everything about a pod concurrently.
func (l *look) at(ctx context.Context, pod *corev1.Pod) {
	l.pod = pod
	var all sync.WaitGroup
	node, get := pod.Spec.NodeName, metav1.GetOptions{}
	if node != "" {
		all.Go(func() { l.node.set(orNil(l.CoreV1().Nodes().Get(ctx, node, get))) })
		all.Go(func() { l.csiNode.set(orNil(l.StorageV1().CSINodes().Get(ctx, node, get))) })
	}
	all.Go(func() {
		l.csiDriver.set(l.CSIDriver(ctx))
		l.namespace = l.DriverNamespace(l.csiDriver.value)
		l.readDriver(ctx, node)
		l.readLive(ctx)
	})
	if c := podCondition(pod, corev1.PodScheduled); node == "" && c != nil && strings.Contains(c.Message, "taint") {
		all.Go(func() {
			list, err := l.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 500})
			if err == nil {
				l.nodes.set(list.Items, nil)
			}
		})
	}
	all.Go(func() { l.readEvents(ctx) })
	all.Go(func() { l.classes.set(l.Classes(ctx, pod.Namespace)) })
	if !l.statuses.asked {
		all.Go(func() { l.readStatuses(ctx, node) })
	}
	all.Go(func() {
		l.account.set(orNil(l.CoreV1().ServiceAccounts(pod.Namespace).Get(ctx, accountOf(pod), get)))
	})
	all.Wait()
}

func accountOf(p *corev1.Pod) string {
	if p.Spec.ServiceAccountName == "" {
		return "default"
	}
	return p.Spec.ServiceAccountName
}

// readStatuses reads those of a node, of all nodes for an empty name.
func (l *look) readStatuses(ctx context.Context, node string) {
	selector := ""
	if node != "" && len(node) <= names.MaxLabel {
		selector = v1.NodeLabel + "=" + node
	}
	l.statuses.set(l.PodStatuses(ctx, l.Namespace, selector))
}

// readEvents reads the pod's, not those of an earlier pod of its name.
func (l *look) readEvents(ctx context.Context) {
	var all []corev1.Event
	err := cluster.Pages(func(o metav1.ListOptions) (string, error) {
		o.FieldSelector = "involvedObject.name=" + l.pod.Name
		list, err := l.CoreV1().Events(l.pod.Namespace).List(ctx, o)
		if err != nil {
			return "", err
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Kind == "Pod" && (e.InvolvedObject.UID == "" || e.InvolvedObject.UID == l.pod.UID) {
				all = append(all, e)
			}
		}
		return list.Continue, nil
	})
	l.events.set(all, err)
}

// readDriver reads the driver's pod on the node and, if there is none, the objects that should make
// it.
func (l *look) readDriver(ctx context.Context, node string) {
	if node == "" {
		return
	}
	list, err := l.DriverPods(ctx, l.namespace, node)
	var best *corev1.Pod // a ready one, else the newest: there are two during a rollout
	for i := range list {
		p := &list[i]
		if best == nil || isReady(p) && !isReady(best) || isReady(p) == isReady(best) && best.CreationTimestamp.Before(&p.CreationTimestamp) {
			best = p
		}
	}
	l.driver.set(best, err)
	if err == nil && best == nil {
		sets, err := l.AppsV1().DaemonSets(l.namespace).List(ctx, metav1.ListOptions{LabelSelector: cluster.DriverLabels, Limit: 500})
		if err == nil {
			l.daemonSets.set(sets.Items, nil)
		} else {
			l.daemonSets.set(nil, err)
		}
	}
}

// isOf reports whether a status belongs to a volume of this very pod.
func isOf(s *v1.SecretProviderClassPodStatus, p *corev1.Pod) bool {
	for _, o := range s.OwnerReferences {
		if o.UID == p.UID {
			return true
		}
	}
	return len(s.OwnerReferences) == 0 && s.Status.PodName == p.Name
}

// statusOf is the status of the pod's volume of a class, nil if there is none.
func (l *look) statusOf(class string) *v1.SecretProviderClassPodStatus {
	for i := range l.statuses.value {
		if s := &l.statuses.value[i]; isOf(s, l.pod) && s.Status.SecretProviderClassName == class {
			return s
		}
	}
	return nil
}

func condition(s *v1.SecretProviderClassPodStatus, kind string) *metav1.Condition {
	for i := range s.Status.Conditions {
		if s.Status.Conditions[i].Type == kind {
			return &s.Status.Conditions[i]
		}
	}
	return nil
}

func reasonOf(s *v1.SecretProviderClassPodStatus) string {
	if c := condition(s, names.Fresh); c != nil {
		return c.Reason
	}
	return s.Annotations[names.ReasonAnnotation]
}

// about is an object for a finding.
func about(kind, namespace, name string) finding.Object {
	return finding.Object{Kind: kind, Namespace: namespace, Name: name}
}
