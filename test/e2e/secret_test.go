//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

const (
	// printVariables prints what kubelet made of the Secret.
	printVariables = `echo "$PASSWORD"; echo "$DSN"; exec sleep 100000`
	registryUser   = "puller"
)

// secretsUsed has pods that take variables and registry credentials from Secrets which the class of
// the same pod makes; and Secrets over a rotation, a driver that is killed, and the class's end.
func secretsUsed(c *tenant) {
	testkit.Must(c.t, c.driver.install(c.t.Context(), map[string]any{
		"syncSecret": map[string]any{"enabled": true, "namespaces": []any{c.ns}},
	}))
	c.t.Cleanup(func() { // the namespace of its rights goes after this
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), tearDownTimeout)
		defer cancel()
		if err := c.driver.install(ctx, nil); err != nil {
			c.t.Error(err)
		}
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

	r := c.reloader()
	c.deploy("web", 2, newPod("web", printVariables, mounts("db"), variables))
	c.awaitRollout("web", printed("one"))
	c.put("db", "two")
	c.awaitRollout("web", printed("two"))
	c.wantRestarts(r, 1)

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
		c.t.Errorf("a driver that starts again wrote the Secret: %+v", s.ObjectMeta)
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

// printed is what printVariables prints of a password.
func printed(value string) string {
	return marker + value + "\ndb://" + strings.ToLower(marker+value) + "\n"
}

// secretClass makes the class db, with a Secret of a file and a template, and one of templates
// alone.
func (c *tenant) secretClass(registry string) {
	c.t.Helper()
	list, err := json.Marshal([]object{c.object("password", "db")})
	testkit.Must(c.t, err)
	templates := fmt.Sprintf(`
- secretName: env
  data: {DSN: 'db://{{ lower .password }}'}
  annotations: {version: '{{ (fromJson .versions).password }}'}
- secretName: registry
  data: {.dockerconfigjson: '{"auths":{%q:{"username":%q,"password":{{ toJson .password }}}}}'}
`, registry, registryUser)
	class := newClass("db", map[string]string{"roleName": c.ns, "objects": string(list), "refreshInterval": "2s", "secretTemplates": templates})
	class["spec"].(map[string]any)["secretObjects"] = []any{
		map[string]any{"secretName": "env", "type": "Opaque", "data": []any{map[string]any{"objectName": "password", "key": "PASSWORD"}}},
		map[string]any{"secretName": "registry", "type": string(corev1.SecretTypeDockerConfigJson)},
	}
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
