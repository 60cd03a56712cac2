//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mayfly-csi/mayfly/test/reloader"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// printBoth prints the two files of rotationRestarts.
const printBoth = `cat /secrets/password; echo; cat /secrets/plain; echo; exec sleep 100000`

// rotationRestarts runs a double of Stakater Reloader, which must restart a Deployment once for each
// rotation, of a secret with a version and of one without, and never when the driver restarts, is
// upgraded, or finds no change.
func rotationRestarts(c *tenant) {
	c.put("db", "one")
	testkit.Must(c.t, c.vault.PutKV1(c.t.Context(), plainMount, c.ns+"/db", map[string]any{"password": marker + "plain"}))
	c.class("db", map[string]string{"refreshInterval": "2s"}, c.object("password", "db"),
		object{ObjectName: "plain", SecretPath: plainMount + "/" + c.ns + "/db", SecretKey: "password"})
	r := c.reloader()
	c.deploy("web", 2, newPod("web", printBoth, mounts("db")), "db")
	c.awaitRollout("web", marker+"one\n"+marker+"plain\n")

	c.put("db", "two")
	c.awaitRollout("web", marker+"two\n"+marker+"plain\n")
	testkit.Must(c.t, c.vault.PutKV1(c.t.Context(), plainMount, c.ns+"/db", map[string]any{"password": marker + "other"}))
	c.awaitRollout("web", marker+"two\n"+marker+"other\n")
	c.wantRestarts(r, 2)

	before := c.driverMetrics().sum("rotation_reconcile_total")
	testkit.Must(c.t, c.patchClass(c.t.Context(), "db", []byte(`{"metadata":{"annotations":{"mayfly.dev/refresh":"now"}}}`)))
	c.until("refreshes without a change", func(context.Context) error {
		if n := c.driverMetrics().sum("rotation_reconcile_total") - before; n < 4 {
			return fmt.Errorf("there were %v", n)
		}
		return nil
	})
	c.killDriver()
	testkit.Must(c.t, c.driver.awaitReady(c.t.Context()))
	testkit.Must(c.t, c.driver.install(c.t.Context(), map[string]any{"image": map[string]any{"tag": versions[1]}}))

	// A restart for one of these would come before this one.
	c.put("db", "three")
	c.awaitRollout("web", marker+"three\n"+marker+"other\n")
	c.wantRestarts(r, 3)
}

func (c *tenant) wantRestarts(r *reloader.Controller, n int) {
	c.t.Helper()
	want := slices.Repeat([]string{"web for db"}, n)
	if got := r.Restarts(); !slices.Equal(got, want) {
		c.t.Errorf("restarts %v, want %v", got, want)
	}
	if revision := c.revision("web"); revision != fmt.Sprint(n+1) {
		c.t.Errorf("the Deployment is at revision %s, want %d", revision, n+1)
	}
}

// revision is 1 more than the number of rollouts after the first.
func (c *tenant) revision(deployment string) string {
	c.t.Helper()
	d, err := c.api.AppsV1().Deployments(c.ns).Get(c.t.Context(), deployment, metav1.GetOptions{})
	testkit.Must(c.t, err)
	return d.Annotations["deployment.kubernetes.io/revision"]
}

// reloader runs the double of Reloader until the case ends.
func (c *tenant) reloader() *reloader.Controller {
	c.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", c.node.Kubeconfig())
	testkit.Must(c.t, err)
	client, err := dynamic.NewForConfig(config)
	testkit.Must(c.t, err)
	r := &reloader.Controller{API: c.api, Dynamic: client, Namespace: c.ns}
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	watching, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.Run(ctx, watching) }()
	c.t.Cleanup(func() {
		cancel()
		testkit.Check(c.t, <-ended)
	})
	select {
	case <-watching:
	case err := <-ended:
		c.t.Fatalf("the controller ended: %v", err)
	}
	return r
}

// deploy makes a Deployment of the pod. Reloader restarts it when the class rotates, unless class is
// empty.
func (c *tenant) deploy(name string, replicas int32, pod *corev1.Pod, class string) {
	c.t.Helper()
	labels, annotations := map[string]string{"app": name}, map[string]string{}
	if class != "" {
		annotations[reloader.Annotation] = class
	}
	pod.Labels = labels
	_, err := c.api.AppsV1().Deployments(c.ns).Create(c.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod.Spec},
		},
	}, metav1.CreateOptions{})
	testkit.Must(c.t, err)
}

// awaitRollout waits until exactly the Deployment's pods are ready and each has printed that text.
func (c *tenant) awaitRollout(name, printed string) {
	c.t.Helper()
	c.until("the rollout of "+name, func(ctx context.Context) error {
		d, err := c.api.AppsV1().Deployments(c.ns).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		pods, err := c.api.CoreV1().Pods(c.ns).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name})
		if err != nil {
			return err
		}
		if s := d.Status; s.ObservedGeneration != d.Generation || s.UpdatedReplicas != *d.Spec.Replicas || s.ReadyReplicas != *d.Spec.Replicas || len(pods.Items) != int(*d.Spec.Replicas) {
			return fmt.Errorf("it is at %d updated and %d ready, with %d pods", s.UpdatedReplicas, s.ReadyReplicas, len(pods.Items))
		}
		for _, pod := range pods.Items {
			if got, err := c.log(ctx, pod.Name); err != nil || got != printed {
				return fmt.Errorf("pod %s has printed %q, want %q: %w", pod.Name, strings.TrimSpace(got), printed, err)
			}
		}
		return nil
	})
}
