//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/test/reloader"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const (
	// printVariables prints the variables that kubelet set from the Secret.
	printVariables = `echo "$PASSWORD"; echo "$DSN"; exec sleep 100000`
	registryUser   = "puller"
)

// secretsSynced has pods that take variables and registry credentials from Secrets of their own class,
// and follows the Secrets over a rotation, a killed driver, and the deletion of the class. At the
// rotation the Reloader double restarts one Deployment and the driver another.
func secretsSynced(c *tenant) {
	testkit.Must(c.t, c.driver.install(c.t.Context(), map[string]any{
		"syncSecret":     map[string]any{"enabled": true, "secrets": map[string]any{c.ns: []any{"env", "registry", "theirs"}}},
		"rolloutRestart": map[string]any{"enabled": true, "workloads": map[string]any{c.ns: []any{"Deployment/own"}}},
	}))
	c.t.Cleanup(func() { // the namespace of its rights goes after this
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), tearDownTimeout)
		defer cancel()
		testkit.Check(c.t, c.driver.install(ctx, nil))
	})
	registry := c.registry(registryUser, marker+"one")
	c.put("db", "one")
	c.secretClass(registry.host)

	c.run(newPod("env", printVariables, mounts("db"), variables))
	c.awaitLog("env", printed("one"))
	c.start(newPod("pull", "", mounts("db"), once, func(pod *corev1.Pod) {
		pod.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "registry"}}
		main := &pod.Spec.Containers[0]
		main.Image, main.ImagePullPolicy, main.Command = registry.host+"/"+registryImage, corev1.PullAlways, nil
	}))
	c.awaitPod("pull", hasSucceeded)
	if n := c.awaitPod("env", isRunning).Status.ContainerStatuses[0].RestartCount; n != 0 {
		c.t.Errorf("the container was restarted %d times", n)
	}

	c.checkDoctorOnSecrets()

	r := c.reloader()
	c.deploy("web", 2, newPod("web", printVariables, mounts("db"), variables), "db")
	c.deploy("own", 2, newPod("own", printVariables, mounts("db"), variables), "")
	c.awaitRollout("web", printed("one"))
	c.awaitRollout("own", printed("one"))
	c.put("db", "two")
	c.awaitRollout("web", printed("two"))
	c.awaitRollout("own", printed("two"))
	c.wantRestarts(r, 1)

	if n := c.driverMetrics().sum("mayfly_secret_syncs_total", `result="written"`); n < 4 { // two Secrets, each at first and after the rotation
		c.t.Errorf("the driver counts %v written Secrets", n)
	}
	written := c.secret("env").ResourceVersion
	c.killDriver()
	testkit.Must(c.t, c.driver.awaitReady(c.t.Context()))
	before := c.driverMetrics().sum("rotation_reconcile_total")
	c.until("refreshes of the new driver", func(context.Context) error {
		if n := c.driverMetrics().sum("rotation_reconcile_total") - before; n < 6 {
			return fmt.Errorf("there were %v", n)
		}
		return nil
	})
	if s := c.secret("env"); s.ResourceVersion != written || s.Annotations["version"] != "2" {
		c.t.Errorf("the driver wrote the Secret after its restart: %+v", s.ObjectMeta)
	}
	if revision := c.revision("own"); revision != "2" {
		c.t.Errorf("the Deployment that the driver restarts is at revision %s, want one restart", revision)
	}

	path := c.path("secretproviderclasses") + "/db"
	testkit.Must(c.t, c.api.CoreV1().RESTClient().Delete().AbsPath(path).Do(c.t.Context()).Error())
	for _, name := range []string{"env", "registry"} {
		c.until("Secret "+name+" to go with its class", func(ctx context.Context) error {
			_, err := c.api.CoreV1().Secrets(c.ns).Get(ctx, name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return errors.Join(errors.New("it is there"), err)
		})
	}
}

// checkDoctorOnSecrets checks that doctor reports a Secret of another owner and one that the chart does
// not list, and no Secret that the driver writes.
func (c *tenant) checkDoctorOnSecrets() {
	c.t.Helper()
	ctx := c.t.Context()
	testkit.Value(c.api.CoreV1().Secrets(c.ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}, metav1.CreateOptions{FieldManager: "helm"}))(c.t)
	c.classWithSecrets("unwritten", nil, opaque("theirs"), opaque("unlisted"))
	var found []string
	for _, f := range c.doctor().Findings {
		if f.Object.Kind == "SecretProviderClass" && f.Object.Namespace == c.ns {
			found = append(found, fmt.Sprintf("%s %s: %s", f.Code, f.Object.Name, f.Message))
		}
	}
	slices.Sort(found)
	want := []string{
		finding.CodeSecretRefused + ` unwritten: lists Secret "unlisted", which ServiceAccount `, finding.CodeSecretOfOther + ` unwritten: lists Secret "theirs", which is there already and belongs to field manager "helm"`,
	}
	if !slices.EqualFunc(found, want, strings.HasPrefix) {
		c.t.Errorf("doctor reports %q", found)
	}
	path := c.path("secretproviderclasses") + "/unwritten"
	testkit.Must(c.t, c.api.CoreV1().RESTClient().Delete().AbsPath(path).Do(ctx).Error())
}

// opaque is an entry of secretObjects.
func opaque(name string) map[string]any {
	return map[string]any{"secretName": name, "type": "Opaque", "data": []any{map[string]any{"objectName": "password", "key": "PASSWORD"}}}
}

// printed is what printVariables prints of a password.
func printed(value string) string {
	return marker + value + "\ndb://" + strings.ToLower(marker+value) + "\n"
}

// secretClass makes the class db, with a Secret of a file and a template, and one of templates
// alone.
func (c *tenant) secretClass(registry string) {
	c.t.Helper()
	templates := fmt.Sprintf(`
- secretName: env
  data: {DSN: 'db://{{ lower .password }}'}
  annotations: {version: '{{ (fromJson .versions).password }}'}
- secretName: registry
  data: {.dockerconfigjson: '{"auths":{%q:{"username":%q,"password":{{ toJson .password }}}}}'}
`, registry, registryUser)
	c.classWithSecrets("db", map[string]string{"refreshInterval": "2s", "rolloutRestart": "Deployment/own", "secretTemplates": templates},
		opaque("env"), map[string]any{"secretName": "registry", "type": string(corev1.SecretTypeDockerConfigJson)})
}

// classWithSecrets makes a class of the object password with entries of secretObjects.
func (c *tenant) classWithSecrets(name string, parameters map[string]string, entries ...any) {
	c.t.Helper()
	list := testkit.Value(json.Marshal([]object{c.object("password", "db")}))(c.t)
	all := map[string]string{"roleName": c.ns, "objects": string(list)}
	maps.Copy(all, parameters)
	class := newClass(name, all)
	class["spec"].(map[string]any)["secretObjects"] = entries
	testkit.Must(c.t, c.createClass(c.t.Context(), class))
}

// variables takes two variables from the Secret env.
func variables(pod *corev1.Pod) {
	for _, key := range []string{"PASSWORD", "DSN"} {
		pod.Spec.Containers[0].Env = append(pod.Spec.Containers[0].Env, corev1.EnvVar{Name: key, ValueFrom: &corev1.EnvVarSource{
			SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "env"}, Key: key},
		}})
	}
}

func (c *tenant) secret(name string) *corev1.Secret {
	c.t.Helper()
	return testkit.Value(c.api.CoreV1().Secrets(c.ns).Get(c.t.Context(), name, metav1.GetOptions{}))(c.t)
}

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
	d := testkit.Value(c.api.AppsV1().Deployments(c.ns).Get(c.t.Context(), deployment, metav1.GetOptions{}))(c.t)
	return d.Annotations["deployment.kubernetes.io/revision"]
}

// reloader runs the double of Reloader until the case ends.
func (c *tenant) reloader() *reloader.Controller {
	c.t.Helper()
	config := testkit.Value(clientcmd.BuildConfigFromFlags("", c.node.Kubeconfig()))(c.t)
	client := testkit.Value(dynamic.NewForConfig(config))(c.t)
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
	testkit.Value(c.api.AppsV1().Deployments(c.ns).Create(c.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod.Spec},
		},
	}, metav1.CreateOptions{}))(c.t)
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
