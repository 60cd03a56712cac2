package explain

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
)

// target is the object on the command line.
type target struct{ kind, name string }

// kinds are the kinds that can be explained, by kubectl's names for them.
func kinds() map[string][]string {
	return map[string][]string{
		"Pod":         {"pod", "pods", "po"},
		"Deployment":  {"deployment", "deployments", "deploy"},
		"StatefulSet": {"statefulset", "statefulsets", "sts"},
		"DaemonSet":   {"daemonset", "daemonsets", "ds"},
		"ReplicaSet":  {"replicaset", "replicasets", "rs"},
		"Job":         {"job", "jobs"},
		"CronJob":     {"cronjob", "cronjobs", "cj"},
	}
}

func parseTarget(args []string) (target, error) {
	text := strings.Join(args, "/")
	kind, name, ok := strings.Cut(text, "/")
	if !ok || kind == "" || name == "" || strings.Contains(name, "/") {
		return target{}, fmt.Errorf("%q is not TYPE/NAME: write for example pod/NAME or deployment/NAME", text)
	}
	word, _, _ := strings.Cut(strings.ToLower(kind), ".") // deployments.apps
	for k, words := range kinds() {
		if slices.Contains(words, word) {
			return target{k, name}, nil
		}
	}
	return target{}, fmt.Errorf("%q cannot be explained: write pod, deployment, statefulset, daemonset, replicaset, job or cronjob", kind)
}

// pods are the pods of the target.
type pods struct {
	finding.Object
	all  []corev1.Pod
	want int32 // how many there should be; 0 if unknown
	// makers are the UIDs of the objects that make the pods, or fail to.
	makers map[types.UID]bool
	// failure is why pods are not made, if an object says so.
	failure string
	worst   *corev1.Pod
	alike   int // how many have the worst state
}

// find reads the target and its pods.
func (l *look) find(ctx context.Context, t target) (*pods, error) {
	set := &pods{Object: finding.Object{Kind: t.kind, Namespace: l.Namespace, Name: t.name}, makers: map[types.UID]bool{}}
	if t.kind == "Pod" {
		pod, err := l.CoreV1().Pods(l.Namespace).Get(ctx, t.name, metav1.GetOptions{})
		if err != nil {
			return nil, l.absent(ctx, set.Object, err)
		}
		set.all, set.worst, set.want, set.alike = []corev1.Pod{*pod}, pod, 1, 1
		return set, nil
	}
	selector, err := l.maker(ctx, t, set)
	if err != nil {
		return nil, l.absent(ctx, set.Object, err)
	}
	if selector != nil {
		set.all, err = l.podsOf(ctx, metav1.FormatLabelSelector(selector), set.makers)
		if err != nil {
			return nil, fmt.Errorf("listing the pods of %s: %s", set.Object, cluster.Reason(err))
		}
	}
	l.readStatuses(ctx, "")
	l.choose(set)
	if len(set.all) < int(set.want) && set.failure == "" {
		l.failedCreate(ctx, set)
	}
	return set, nil
}

// absent explains that the target cannot be read, with the names that are near to its name.
func (l *look) absent(ctx context.Context, o finding.Object, err error) error {
	out := fmt.Errorf("reading %s: %s", o, cluster.Reason(err))
	if !apierrors.IsNotFound(err) || o.Kind != "Pod" {
		return out
	}
	list, listErr := l.CoreV1().Pods(l.Namespace).List(ctx, metav1.ListOptions{Limit: 500})
	if listErr != nil {
		return out
	}
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	if suggestion := class.DidYouMean(o.Name, names); suggestion != "" {
		return fmt.Errorf("%w%s", out, suggestion)
	}
	return out
}

// maker reads a workload: the objects that make its pods, and the pods' selector.
func (l *look) maker(ctx context.Context, t target, set *pods) (*metav1.LabelSelector, error) {
	apps, batch, get := l.AppsV1(), l.BatchV1(), metav1.GetOptions{}
	switch t.kind {
	case "Deployment":
		return l.deployment(ctx, t.name, set)
	case "StatefulSet":
		o, err := apps.StatefulSets(l.Namespace).Get(ctx, t.name, get)
		set.made(o.UID, replicas(o.Spec.Replicas))
		return o.Spec.Selector, err
	case "DaemonSet":
		o, err := apps.DaemonSets(l.Namespace).Get(ctx, t.name, get)
		set.made(o.UID, o.Status.DesiredNumberScheduled)
		return o.Spec.Selector, err
	case "ReplicaSet":
		o, err := apps.ReplicaSets(l.Namespace).Get(ctx, t.name, get)
		set.made(o.UID, replicas(o.Spec.Replicas))
		set.failure = replicaFailure(o)
		return o.Spec.Selector, err
	case "Job":
		o, err := batch.Jobs(l.Namespace).Get(ctx, t.name, get)
		return set.job(o), err
	}
	o, err := batch.CronJobs(l.Namespace).Get(ctx, t.name, get)
	if err != nil {
		return nil, err
	}
	return l.newestJob(ctx, o, set)
}

func (s *pods) made(by types.UID, want int32) {
	s.makers[by] = true
	s.want = want
}

func (s *pods) job(o *batchv1.Job) *metav1.LabelSelector {
	s.made(o.UID, 0)
	for _, c := range o.Status.Conditions {
		if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue {
			s.failure = c.Message
		}
	}
	if o.Status.Succeeded+o.Status.Failed == 0 {
		s.want = 1
	}
	return o.Spec.Selector
}

// newestJob is the last job of a CronJob.
func (l *look) newestJob(ctx context.Context, o *batchv1.CronJob, set *pods) (*metav1.LabelSelector, error) {
	list, err := l.BatchV1().Jobs(l.Namespace).List(ctx, metav1.ListOptions{Limit: 500})
	if err != nil {
		return nil, err
	}
	var newest *batchv1.Job
	for i := range list.Items {
		j := &list.Items[i]
		if metav1.IsControlledBy(j, o) && (newest == nil || newest.CreationTimestamp.Before(&j.CreationTimestamp)) {
			newest = j
		}
	}
	if newest == nil {
		set.failure = "it has created no Job yet"
		return nil, nil
	}
	return set.job(newest), nil
}

func (l *look) deployment(ctx context.Context, name string, set *pods) (*metav1.LabelSelector, error) {
	o, err := l.AppsV1().Deployments(l.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	set.made(o.UID, replicas(o.Spec.Replicas))
	list, err := l.AppsV1().ReplicaSets(l.Namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(o.Spec.Selector), Limit: 500})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		r := &list.Items[i]
		if metav1.IsControlledBy(r, o) {
			set.makers[r.UID] = true
			set.failure = cmp.Or(set.failure, replicaFailure(r))
		}
	}
	return o.Spec.Selector, nil
}

// replicaFailure is the condition of a ReplicaSet that cannot make pods.
func replicaFailure(r *appsv1.ReplicaSet) string {
	for _, c := range r.Status.Conditions {
		if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
			return c.Message
		}
	}
	return ""
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

func (l *look) podsOf(ctx context.Context, selector string, makers map[types.UID]bool) ([]corev1.Pod, error) {
	var found []corev1.Pod
	err := cluster.Pages(func(o metav1.ListOptions) (string, error) {
		o.LabelSelector = selector
		list, err := l.CoreV1().Pods(l.Namespace).List(ctx, o)
		if err != nil {
			return "", err
		}
		for i := range list.Items {
			if owner := metav1.GetControllerOf(&list.Items[i]); owner != nil && makers[owner.UID] {
				found = append(found, list.Items[i])
			}
		}
		return list.Continue, nil
	})
	return found, err
}

// failedCreate looks for the Event of a controller that cannot make pods.
func (l *look) failedCreate(ctx context.Context, set *pods) {
	list, err := l.CoreV1().Events(l.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=FailedCreate", Limit: 500})
	if err != nil {
		return
	}
	var last metav1.Time
	for i := range list.Items {
		if e := &list.Items[i]; set.makers[e.InvolvedObject.UID] && !e.LastTimestamp.Before(&last) {
			set.failure, last = e.Message, e.LastTimestamp
		}
	}
}

// choose returns the pod in the worst state, the newest of several.
func (l *look) choose(set *pods) {
	count := map[string]int{}
	most := -1
	for i := range set.all {
		p := &set.all[i]
		rank, state := l.stateOf(p)
		count[state]++
		if rank > most || rank == most && set.worst.CreationTimestamp.Before(&p.CreationTimestamp) {
			most, set.worst = rank, p
		}
	}
	if set.worst != nil {
		_, state := l.stateOf(set.worst)
		set.alike = count[state]
	}
}

// stateOf ranks the state of a pod, and names it in a word or two, the same for pods with the same
// problem.
func (l *look) stateOf(p *corev1.Pod) (rank int, state string) {
	waits := waiting(p)
	failing := ""
	for i := range l.statuses.value {
		if s := &l.statuses.value[i]; isOf(s, p) && s.Status.Failing {
			failing = ", " + reasonOf(s)
		}
	}
	switch {
	case p.Status.Phase == corev1.PodSucceeded:
		return 0, "completed"
	case p.Status.Phase == corev1.PodFailed:
		return 1, cmp.Or(p.Status.Reason, "failed")
	case p.DeletionTimestamp != nil:
		return 2, "terminating"
	case p.Spec.NodeName == "":
		return 5, "not scheduled"
	case waits != nil:
		return 6, waits.Reason + failing
	case p.Status.Phase == corev1.PodPending:
		return 6, "pending" + failing
	case !isReady(p):
		return 4, "running, not ready" + failing
	case failing != "":
		return 3, "running" + failing
	}
	return 0, "running"
}

func isReady(p *corev1.Pod) bool {
	c := podCondition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

func podCondition(p *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == kind {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// waiting is the reason why the first container that does not run waits.
func waiting(p *corev1.Pod) *corev1.ContainerStateWaiting {
	for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		if c.State.Waiting != nil {
			return c.State.Waiting
		}
	}
	return nil
}
