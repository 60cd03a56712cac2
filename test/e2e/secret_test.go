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

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
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
	_, err := c.api.CoreV1().Secrets(c.ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}, metav1.CreateOptions{FieldManager: "helm"})
	testkit.Must(c.t, err)
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
	list, err := json.Marshal([]object{c.object("password", "db")})
	testkit.Must(c.t, err)
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
	s, err := c.api.CoreV1().Secrets(c.ns).Get(c.t.Context(), name, metav1.GetOptions{})
	testkit.Must(c.t, err)
	return s
}
