//go:build e2e

package secretsync

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/rollout"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/controlplane"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const restarts = `
rolloutRestart:
  enabled: true
  workloads: {shop: [Deployment/web, StatefulSet/db, DaemonSet/agent]}
`

// restarter is the driver's part on one node.
type restarter struct {
	*rollout.Restarter
	events events
}

func (r *rig) restarter(node string) *restarter {
	r.t.Helper()
	api := testkit.Value(rollout.NewAPI(r.config(node)))(r.t)
	n := &restarter{}
	n.Restarter = testkit.Value(rollout.New(rollout.Config{API: api, Events: &n.events, Logger: slog.New(slog.DiscardHandler), Count: func() {}}))(r.t)
	return n
}

func rotation(c *class.Class, pod, version string) volume.Followed {
	return volume.Followed{
		Volume: pod, Pod: identity.Pod{Namespace: namespace, Name: pod, UID: pod}, Class: c, Changed: true, Since: time.Now().Add(-time.Hour),
		Versions: []provider.Version{{ID: "password", Version: version}}, Files: []provider.File{{Path: "password", ReadAt: time.Now()}},
	}
}

// TestRollouts: real controllers roll out what nodes set, once, and the driver's
// account can do nothing else with the right.
func TestRollouts(t *testing.T) {
	r := newRig(t)
	r.chart(restarts, "rolloutrestart.yaml")
	testkit.Value(r.Client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))(t)
	off := false
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}},
		Spec:       corev1.PodSpec{AutomountServiceAccountToken: &off, Containers: []corev1.Container{{Name: "main", Image: "none"}}},
	}
	selector := &metav1.LabelSelector{MatchLabels: template.Labels}
	apps := r.Client.AppsV1()
	for _, name := range []string{"web", "other"} {
		testkit.Value(apps.Deployments(namespace).Create(t.Context(), &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}}, metav1.CreateOptions{}))(t)
	}
	testkit.Value(apps.StatefulSets(namespace).Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{Selector: selector, Template: template}}, metav1.CreateOptions{}))(t)
	testkit.Value(apps.DaemonSets(namespace).Create(t.Context(), &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}}, metav1.CreateOptions{}))(t)
	rolledOut := func(revision string) {
		t.Helper()
		controlplane.Await(t, soon, "the rollout", func(ctx context.Context) error {
			d, err := apps.Deployments(namespace).Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if s := d.Status; s.ObservedGeneration < d.Generation || s.UpdatedReplicas != 1 || d.Annotations["deployment.kubernetes.io/revision"] != revision {
				return fmt.Errorf("%+v", d)
			}
			return nil
		})
	}
	rolledOut("1")

	policyHolds(t, r)
	c := r.class("restarted", func(s *v1.SecretProviderClass) {
		s.Spec.Parameters["rolloutRestart"] = "Deployment/web, StatefulSet/db\nDaemonSet/agent Deployment/other"
	})
	nodes := []*restarter{r.restarter("node-a"), r.restarter("node-b"), r.restarter("node-c")}
	var all sync.WaitGroup
	for _, n := range nodes {
		for i := range 5 {
			all.Go(func() { n.Follow(t.Context(), rotation(c, fmt.Sprint(i), "2")) })
		}
	}
	all.Wait()
	for _, n := range nodes { // later refreshes: a set whose rollout was not over is now
		testkit.Eventually(t, "nothing left to do", func() bool {
			f := rotation(c, "0", "2")
			f.Changed = false
			return n.Follow(t.Context(), f).IsZero()
		})
	}
	restarted, refused := map[string]int{}, 0
	for _, n := range nodes {
		for _, e := range n.events.told {
			switch {
			case e.Reason == rollout.Restarted:
				restarted[e.About.Kind+"/"+e.About.Name]++
			case e.Reason == rollout.NotRestarted && strings.Contains(e.Text, "Deployment/other") && strings.Contains(e.Text, "rolloutRestart.workloads.shop"):
				refused++
			default:
				t.Errorf("Event %+v", e)
			}
		}
	}
	if fmt.Sprint(restarted) != "map[DaemonSet/agent:1 Deployment/web:1 StatefulSet/db:1]" || refused == 0 {
		t.Errorf("restarts %v, %d refused", restarted, refused)
	}
	d := testkit.Value(apps.Deployments(namespace).Get(t.Context(), "web", metav1.GetOptions{}))(t)
	if d.Generation != 2 || d.Spec.Template.Annotations[rollout.KeyOf(c.Ref)] == "" {
		t.Errorf("Deployment %+v", d)
	}
	stolen(t, r)
}

// patcher changes a Deployment with the driver's account.
func patcher(t *testing.T, r *rig, dryRun ...string) func(name, body string) error {
	t.Helper()
	client := testkit.Value(kubernetes.NewForConfig(r.config("node-a")))(t)
	return func(name, body string) error {
		_, err := client.AppsV1().Deployments(namespace).Patch(t.Context(), name, types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{DryRun: dryRun})
		return err
	}
}

// policyHolds waits until the API server goes by the policy.
func policyHolds(t *testing.T, r *rig) {
	t.Helper()
	patch := patcher(t, r, metav1.DryRunAll)
	controlplane.Await(t, soon, "the policy", func(context.Context) error {
		if err := patch("web", `{"metadata":{"annotations":{"x":"y"}}}`); !apierrors.IsForbidden(err) {
			return fmt.Errorf("an annotation of the Deployment: %w", err)
		}
		return nil
	})
}

// stolen does with the right what the driver's program does not.
func stolen(t *testing.T, r *rig) {
	t.Helper()
	patch := patcher(t, r)
	for name, body := range map[string]string{
		"another image":      `{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"evil"}]}}}}`,
		"a service account":  `{"spec":{"template":{"spec":{"serviceAccountName":"admin"}}}}`,
		"another annotation": `{"spec":{"template":{"metadata":{"annotations":{"sidecar.istio.io/inject":"false"}}}}}`,
		"a label":            `{"spec":{"template":{"metadata":{"labels":{"more":"x"}}}}}`,
		"replicas":           `{"spec":{"replicas":7}}`,
		"its annotation":     `{"metadata":{"annotations":{"x":"y"}}}`,
		"a pause":            `{"spec":{"paused":true}}`,
		"an owner":           `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"x","uid":"y"}]}}`,
	} {
		if err := patch("web", body); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "of the pod template") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := patch("other", `{"spec":{"template":{"metadata":{"annotations":{"restart.mayfly.dev/x":"y"}}}}}`); !apierrors.IsForbidden(err) {
		t.Errorf("a workload that is not listed: %v", err)
	}
	if err := patch("web", `{"spec":{"template":{"metadata":{"annotations":{"restart.mayfly.dev/x":"y"}}}}}`); err != nil {
		t.Errorf("its own annotation: %v", err)
	}
}
