package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/credential"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
)

// workload is the use of secrets by an object that makes pods, or by a pod of its own. Its spec is
// not stored.
type workload struct {
	finding.Object
	// fromSecrets counts the variables from keys of Secrets, whole the Secrets whose keys all
	// become variables.
	fromSecrets, whole int
	account            string
	classes            []string
	places             []place
}

// place is where a credential is in plain text.
type place struct{ where, shape string }

// workloads are those that use secrets.
type workloads struct {
	*look
	all []workload
	// missed is how many kinds could not be listed, for every check of workloads.
	missed int
}

// readWorkloads reads every kind whose objects make pods, page by page.
func readWorkloads(ctx context.Context, l *look) *workloads {
	ws := &workloads{look: l}
	take := func(kind string, m *metav1.ObjectMeta, spec *corev1.PodSpec) {
		l.report.Objects++
		if owner := metav1.GetControllerOf(m); owner == nil || !known(owner.Kind) {
			w := workload{Object: finding.Object{Kind: kind, Namespace: m.Namespace, Name: m.Name}}
			w.read(spec, l.client.DriverName)
			if w.fromSecrets+w.whole+len(w.classes)+len(w.places) > 0 {
				ws.all = append(ws.all, w)
			}
		}
	}
	for _, list := range ws.lists(ctx, take) {
		if err := cluster.Pages(list.page); err != nil {
			l.notSeen(all(list.kind, l.namespace), err)
		}
	}
	ws.barePods(ctx, take)
	ws.missed, l.unseen = l.unseen, 0
	return ws
}

// known reports whether the check reads the objects of a kind themselves, so that it skips what
// they own.
func known(kind string) bool {
	return slices.Contains([]string{"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob"}, kind)
}

// list reads the objects of one kind.
type list struct {
	kind string
	page func(metav1.ListOptions) (string, error)
}

func (ws *workloads) lists(ctx context.Context, take func(string, *metav1.ObjectMeta, *corev1.PodSpec)) []list {
	n := ws.namespace
	apps, batch := ws.client.AppsV1(), ws.client.BatchV1()
	return []list{
		{"Deployment", func(o metav1.ListOptions) (string, error) {
			l, err := apps.Deployments(n).List(ctx, o)
			return each(l, err, func() []appsv1.Deployment { return l.Items }, func(x *appsv1.Deployment) { take("Deployment", &x.ObjectMeta, &x.Spec.Template.Spec) })
		}},
		{"StatefulSet", func(o metav1.ListOptions) (string, error) {
			l, err := apps.StatefulSets(n).List(ctx, o)
			return each(l, err, func() []appsv1.StatefulSet { return l.Items }, func(x *appsv1.StatefulSet) { take("StatefulSet", &x.ObjectMeta, &x.Spec.Template.Spec) })
		}},
		{"DaemonSet", func(o metav1.ListOptions) (string, error) {
			l, err := apps.DaemonSets(n).List(ctx, o)
			return each(l, err, func() []appsv1.DaemonSet { return l.Items }, func(x *appsv1.DaemonSet) { take("DaemonSet", &x.ObjectMeta, &x.Spec.Template.Spec) })
		}},
		{"ReplicaSet", func(o metav1.ListOptions) (string, error) {
			l, err := apps.ReplicaSets(n).List(ctx, o)
			return each(l, err, func() []appsv1.ReplicaSet { return l.Items }, func(x *appsv1.ReplicaSet) { take("ReplicaSet", &x.ObjectMeta, &x.Spec.Template.Spec) })
		}},
		{"ReplicationController", func(o metav1.ListOptions) (string, error) {
			l, err := ws.client.CoreV1().ReplicationControllers(n).List(ctx, o)
			return each(l, err, func() []corev1.ReplicationController { return l.Items }, func(x *corev1.ReplicationController) {
				if x.Spec.Template != nil {
					take("ReplicationController", &x.ObjectMeta, &x.Spec.Template.Spec)
				}
			})
		}},
		{"Job", func(o metav1.ListOptions) (string, error) {
			l, err := batch.Jobs(n).List(ctx, o)
			return each(l, err, func() []batchv1.Job { return l.Items }, func(x *batchv1.Job) { take("Job", &x.ObjectMeta, &x.Spec.Template.Spec) })
		}},
		{"CronJob", func(o metav1.ListOptions) (string, error) {
			l, err := batch.CronJobs(n).List(ctx, o)
			return each(l, err, func() []batchv1.CronJob { return l.Items }, func(x *batchv1.CronJob) {
				take("CronJob", &x.ObjectMeta, &x.Spec.JobTemplate.Spec.Template.Spec)
			})
		}},
	}
}

// each returns the items of a page, and its continue token.
func each[T any](list metav1.ListInterface, err error, items func() []T, take func(*T)) (string, error) {
	if err != nil {
		return "", err
	}
	page := items()
	for i := range page {
		take(&page[i])
	}
	return list.GetContinue(), nil
}

// barePods reads the pods that no object of a known kind makes. It lists the metadata of all, and
// reads only these; of the pods of an unknown object it reads the first.
func (ws *workloads) barePods(ctx context.Context, take func(string, *metav1.ObjectMeta, *corev1.PodSpec)) {
	seen := map[string]bool{}
	var failed error
	err := ws.metadata(ctx, "pods", metav1.ListOptions{}, func(m *metav1.PartialObjectMetadata) {
		owner := metav1.GetControllerOf(m)
		if owner != nil && known(owner.Kind) || failed != nil {
			return
		}
		if owner != nil {
			key := string(owner.UID)
			if owner.Kind == "Node" { // static pods, of which each node has those of its directory
				key = m.Namespace + "/" + strings.TrimSuffix(m.Name, "-"+owner.Name)
			}
			if seen[key] {
				return
			}
			seen[key] = true
		}
		pod, err := ws.client.CoreV1().Pods(m.Namespace).Get(ctx, m.Name, metav1.GetOptions{})
		switch {
		case err == nil:
			take("Pod", &pod.ObjectMeta, &pod.Spec)
		case !apierrors.IsNotFound(err): // it may be deleted meanwhile
			failed = err
		}
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		ws.notSeen(all("Pod", ws.namespace), err)
	}
}

// read finds the use of secrets in the spec of a pod.
func (w *workload) read(spec *corev1.PodSpec, driver string) {
	w.account, w.classes = cluster.AccountOf(spec), cluster.ClassesOf(spec, driver)
	containers := slices.Concat(spec.InitContainers, spec.Containers)
	for _, c := range spec.EphemeralContainers {
		containers = append(containers, corev1.Container(c.EphemeralContainerCommon))
	}
	for i := range containers {
		w.container(&containers[i])
	}
}

func (w *workload) container(c *corev1.Container) {
	for _, e := range c.Env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
			w.fromSecrets++
		}
		for _, p := range credential.Find(e.Name, e.Value) {
			w.places = append(w.places, place{fmt.Sprintf("variable %q of container %q", e.Name, c.Name), p.Shape})
		}
	}
	for _, e := range c.EnvFrom {
		if e.SecretRef != nil {
			w.whole++
		}
	}
	for _, words := range [][]string{c.Command, c.Args} {
		for i, word := range words {
			name := ""
			if i > 0 && strings.HasPrefix(words[i-1], "-") {
				name = strings.TrimLeft(words[i-1], "-")
			}
			for _, p := range credential.Find(name, word) {
				w.places = append(w.places, place{fmt.Sprintf("the command line of container %q", c.Name), p.Shape})
			}
		}
	}
}

// environment reports the workloads with Secrets in variables.
func (ws *workloads) environment() {
	found := 0
	for _, w := range ws.all {
		var parts []string
		if w.fromSecrets > 0 {
			parts = append(parts, output.Plural(w.fromSecrets, "variable")+" from keys of Secrets")
		}
		if w.whole > 0 {
			parts = append(parts, output.Plural(w.whole, "Secret")+" whole")
		}
		if len(parts) > 0 {
			found++
			ws.add(finding.CodeSecretInEnv, finding.Finding{Object: w.Object, Message: "takes " + strings.Join(parts, " and ") + " into its environment"})
		}
	}
	ws.unseen += ws.missed
	ws.recordCheck("Secrets in environment variables", found, output.Plural(found, "workload"))
}

// defaultAccounts reports the workloads that mount classes with the default service account.
func (ws *workloads) defaultAccounts() {
	found, mounting := 0, 0
	for _, w := range ws.all {
		if len(w.classes) == 0 {
			continue
		}
		mounting++
		if w.account == "default" {
			found++
			ws.add(finding.CodeDefaultAccount, finding.Finding{Object: w.Object,
				Message: fmt.Sprintf("mounts %s as the service account default, which every pod of the namespace without a service account name uses", listed(w.classes, maxNames))})
		}
	}
	ws.unseen += ws.missed
	ws.recordCheck("service accounts of pods with classes", found, fmt.Sprintf("%s with classes, %d as default", output.Plural(mounting, "workload"), found))
}

// plainText looks for credentials in ConfigMaps, and reports those in workloads.
func (ws *workloads) plainText(ctx context.Context) {
	found := 0
	tell := func(o finding.Object, p place) {
		found++
		ws.add(finding.CodePlainText, finding.Finding{Object: o, Message: fmt.Sprintf("%s has %s in plain text", p.where, p.shape)})
	}
	for _, w := range ws.all {
		for _, p := range w.places {
			tell(w.Object, p)
		}
	}
	err := cluster.Pages(func(o metav1.ListOptions) (string, error) {
		l, err := ws.client.CoreV1().ConfigMaps(ws.namespace).List(ctx, o)
		return each(l, err, func() []corev1.ConfigMap { return l.Items }, func(m *corev1.ConfigMap) {
			ws.report.Objects++
			for _, key := range sortedKeys(m.Data) {
				for _, p := range credential.Find(key, m.Data[key]) {
					tell(finding.Object{Kind: "ConfigMap", Namespace: m.Namespace, Name: m.Name}, place{whereIn(key, m.Data[key], p), p.Shape})
				}
			}
		})
	})
	if err != nil {
		ws.notSeen(all("ConfigMap", ws.namespace), err)
	}
	ws.unseen += ws.missed
	ws.recordCheck("credentials in plain text", found, output.Plural(found, "place"))
}

func whereIn(key, text string, p credential.Place) string {
	where := fmt.Sprintf("key %q", key)
	if strings.Contains(strings.TrimSuffix(text, "\n"), "\n") {
		where += fmt.Sprintf(", line %d", p.Line)
	}
	if p.Key != "" && p.Key != key {
		where += fmt.Sprintf(" (%s)", p.Key)
	}
	return where
}
