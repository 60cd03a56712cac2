//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// account is the service account that may log in.
const account = "web"

// tenant is the namespace of one case, with its own Vault role and secrets.
type tenant struct {
	*environment
	t  *testing.T
	ns string
}

// tenantPrefix begins the names of the cases' namespaces.
const tenantPrefix = "e2e-"

func (e *environment) newTenant(t *testing.T) *tenant {
	t.Helper()
	testkit.Must(t, context.Cause(e.ctx))
	namespace, err := e.api.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: tenantPrefix, Labels: map[string]string{tenantLabel: "true"}},
	}, metav1.CreateOptions{})
	testkit.Must(t, err)
	c := &tenant{environment: e, t: t, ns: namespace.Name}
	t.Cleanup(c.deleteNamespace)
	c.account(account)
	testkit.Must(t, e.vault.allowLogin(t.Context(), c.ns, nil))
	c.until("the namespace to take pods", func(ctx context.Context) error {
		_, err := e.api.CoreV1().ConfigMaps(c.ns).Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
	return c
}

func (c *tenant) account(name string) {
	c.t.Helper()
	_, err := c.api.CoreV1().ServiceAccounts(c.ns).Create(c.t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	testkit.Must(c.t, err)
}

// deleteNamespace does not wait: the pods end during the next case, and checkNothingLeft finds
// remaining ones.
func (c *tenant) deleteNamespace() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), attemptTimeout)
	defer cancel()
	if c.t.Failed() {
		c.t.Log(c.explainPods(ctx))
		c.t.Log(c.driver.explain(ctx))
		if c.keep {
			return
		}
	}
	c.checkLeaks(ctx)
	if err := c.api.CoreV1().Namespaces().Delete(ctx, c.ns, metav1.DeleteOptions{}); err != nil {
		c.t.Errorf("deleting namespace %s: %v", c.ns, err)
	}
}

func (c *tenant) explainPods(ctx context.Context) string {
	var text strings.Builder
	pods, err := c.api.CoreV1().Pods(c.ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for _, pod := range pods.Items {
		fmt.Fprintf(&text, "pod %s is %s\n", pod.Name, pod.Status.Phase)
		events, _ := c.events(ctx, c.ns, pod.Name)
		for _, e := range events {
			fmt.Fprintf(&text, "  %s (%d): %s\n", e.Reason, e.Count, e.Message)
		}
	}
	return text.String()
}

func (c *tenant) until(what string, try func(context.Context) error) {
	c.t.Helper()
	testkit.Must(c.t, c.poll(c.t.Context(), what, try))
}

// put writes a secret of the tenant with one key, password.
func (c *tenant) put(path, value string) {
	c.t.Helper()
	testkit.Must(c.t, c.vault.PutKV2(c.t.Context(), kvMount, c.ns+"/"+path, map[string]any{"password": marker + value}))
}

// object is an entry of a class's objects, which reads a secret of put.
type object struct {
	ObjectName     string `json:"objectName"`
	SecretPath     string `json:"secretPath"`
	SecretKey      string `json:"secretKey"`
	FilePermission *int   `json:"filePermission,omitempty"`
	UID            *int   `json:"uid,omitempty"`
}

func (c *tenant) object(name, path string) object {
	return object{ObjectName: name, SecretPath: kvMount + "/data/" + c.ns + "/" + path, SecretKey: "password"}
}

// class creates a class of the tenant's role; change adds or replaces parameters.
func (c *tenant) class(name string, change map[string]string, objects ...object) {
	c.t.Helper()
	list, err := json.Marshal(objects) // which is YAML too
	testkit.Must(c.t, err)
	parameters := map[string]string{"roleName": c.ns, "objects": string(list)}
	maps.Copy(parameters, change)
	testkit.Must(c.t, c.createClass(c.t.Context(), newClass(name, parameters)))
}

func newClass(name string, parameters map[string]string) map[string]any {
	return map[string]any{
		"metadata": map[string]any{"name": name},
		"spec":     map[string]any{"provider": "vault", "parameters": parameters},
	}
}

// createClass creates a class of any contents, valid or not.
func (c *tenant) createClass(ctx context.Context, class map[string]any) error {
	return c.createClassOf(ctx, v1.Version, class)
}

func (c *tenant) createClassOf(ctx context.Context, version string, class map[string]any) error {
	body, err := json.Marshal(merge(map[string]any{"apiVersion": v1.GroupName + "/" + version, "kind": "SecretProviderClass"}, class))
	if err != nil {
		return err
	}
	path := fmt.Sprintf("/apis/%s/%s/namespaces/%s/%s", v1.GroupName, version, c.ns, v1.SecretProviderClassResource)
	return c.api.CoreV1().RESTClient().Post().AbsPath(path).
		SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Error()
}

func (c *tenant) patchClass(ctx context.Context, name string, patch []byte) error {
	return c.api.CoreV1().RESTClient().Patch(types.MergePatchType).AbsPath(c.path(v1.SecretProviderClassResource), name).
		Body(patch).Do(ctx).Error()
}

func (c *tenant) path(resource string) string {
	return fmt.Sprintf("/apis/%s/namespaces/%s/%s", v1.GroupVersion(), c.ns, resource)
}

// statuses are the SecretProviderClassPodStatus objects of a pod, by class.
func (c *tenant) statuses(ctx context.Context, pod string) (map[string]podStatus, error) {
	data, err := c.api.CoreV1().RESTClient().Get().AbsPath(c.path(v1.SecretProviderClassPodStatusResource)).DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing the pod statuses of %s: %w", c.ns, err)
	}
	var list v1.SecretProviderClassPodStatusList
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("decoding the pod statuses of %s: %w", c.ns, err)
	}
	found := map[string]podStatus{}
	for _, s := range list.Items {
		if s.Status.PodName == pod {
			found[s.Status.SecretProviderClassName] = s
		}
	}
	return found, nil
}
