//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// commandOutput is the exit code and output of kubectl mayfly.
type commandOutput struct {
	code      int
	out, errs string
}

// mayfly runs kubectl mayfly in the tenant's namespace.
func (c *tenant) mayfly(args ...string) commandOutput {
	c.t.Helper()
	var out, errs bytes.Buffer
	args = append(args, "--kubeconfig="+c.node.Kubeconfig(), "--namespace="+c.ns)
	code := cli.Run(args, output.Streams{In: strings.NewReader(""), Out: &out, Err: &errs, Getenv: os.Getenv, Version: "e2e"})
	c.checkNoSecret(strings.Join(args, " "), out.String()+errs.String())
	return commandOutput{code, out.String(), errs.String()}
}

// checkNoSecret fails the test if the output of a command has a secret.
func (c *tenant) checkNoSecret(what, text string) {
	c.t.Helper()
	if strings.Contains(text, marker) {
		c.t.Errorf("%s prints a secret:\n%s", what, text)
	}
}

func (s commandOutput) want(c *tenant, code int, texts ...string) {
	c.t.Helper()
	if s.code != code {
		c.t.Errorf("exit code %d, want %d:\n%s%s", s.code, code, s.out, s.errs)
	}
	testkit.Has(c.t, s.out+s.errs, texts...)
}

type volumeStatus struct {
	Pod, Node, Class, State          string
	Live                             bool
	PublishedAt, RefreshedAt, NextAt string
	Objects                          []struct{ ID, Version string }
}

func (c *tenant) volumeStatusOf(pod string, more ...string) volumeStatus {
	c.t.Helper()
	var d struct{ Volumes []volumeStatus }
	s := c.mayfly(append([]string{"status", "--pod=" + pod, "-o=json"}, more...)...)
	if err := json.Unmarshal([]byte(s.out), &d); err != nil || len(d.Volumes) != 1 {
		c.t.Fatalf("status of one pod: %v\n%s%s", err, s.out, s.errs)
	}
	return d.Volumes[0]
}

// statusAndRefresh lists and refreshes volumes as an admin and as a user of the tenant. Only the
// admin may forward a port to the driver's pod.
func statusAndRefresh(c *tenant) {
	c.put("db", "one")
	c.class("db", map[string]string{"refreshInterval": "1h"}, c.object("password", "db"))
	pod := c.run(newPod("web", printChanges, mounts("db")))
	v := c.volumeStatusOf("web")
	if !v.Live || v.State != "Fresh" || v.Node != c.node.Name() || v.Class != "db" || v.RefreshedAt == "" || v.NextAt == "" || len(v.Objects) != 1 || v.Objects[0].Version != "1" {
		c.t.Errorf("status shows %+v", v)
	}
	c.mayfly("status", "-o=wide").want(c, 0, "web", "Fresh", "password=1", "vault at")
	c.mayfly("tree", "db").want(c, 0, "object password from", fmt.Sprintf("%s/data/%s/db", kvMount, c.ns), "pod web on ", "password version 1")

	c.put("db", "two")
	c.mayfly("refresh", "db").want(c, 0, "Rotated", "password: 1 → 2")
	c.awaitFile(pod, "two")
	c.mayfly("refresh", "db").want(c, 0, "Unchanged")
	c.put("db", "three")
	c.mayfly("refresh", "pod/web").want(c, 0, "Rotated", "password: 2 → 3")
	c.awaitFile(pod, "three")
	c.mayfly("refresh", "pod/none").want(c, 0, "MF623")

	testkit.Must(c.t, c.vault.Policy(c.t.Context(), c.ns, `path "nothing" { capabilities = ["read"] }`))
	c.mayfly("refresh", "pod/web").want(c, 1, "Failed", "MF620", "permission denied")
	c.mayfly("status", "--failing").want(c, 0, "Failing", "Denied", "MF600", "permission denied")
	testkit.Must(c.t, c.vault.allowLogin(c.t.Context(), c.ns, nil))
	c.mayfly("refresh", "pod/web").want(c, 0, "Unchanged")
	c.awaitFile(pod, "three")

	c.limitedUser("developer")
	as := []string{"--as=developer", "--driver-namespace=" + releaseNamespace}
	asDeveloper := func(args ...string) commandOutput { return c.mayfly(append(args, as...)...) }
	if v := c.volumeStatusOf("web", as...); v.Live || v.State != "Fresh" || v.RefreshedAt != "" || len(v.Objects) != 1 {
		c.t.Errorf("without the right to a port-forward: %+v", v)
	}
	asDeveloper("status").want(c, 0, "<unknown>", "MF605", `"pods/portforward"`)
	asDeveloper("tree", "db").want(c, 0, "pod web on ", "password version ", "MF605")
	c.put("db", "four")
	asDeveloper("refresh", "db", "--timeout=2s").want(c, 0, "web", "MF605") // the driver writes the version to the status within a minute
	c.awaitFile(pod, "four")
	asDeveloper("refresh", "pod/web").want(c, 2, `"pods/portforward"`, "kubectl mayfly refresh CLASS")
	c.mayfly("status", "--as=nobody").want(c, 0, "MF090", "secretproviderclasspodstatuses")
}

// limitedUser grants a user to get and patch the tenant's classes, and to list the driver's pods.
func (c *tenant) limitedUser(user string) {
	c.t.Helper()
	const group = "secrets-store.csi.x-k8s.io"
	for namespace, rules := range map[string][]rbacv1.PolicyRule{
		c.ns: {
			{APIGroups: []string{group}, Resources: []string{"secretproviderclasses"}, Verbs: []string{"get", "list", "patch"}},
			{APIGroups: []string{group}, Resources: []string{"secretproviderclasspodstatuses"}, Verbs: []string{"get", "list"}},
		},
		releaseNamespace: {{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list"}}},
	} {
		name := metav1.ObjectMeta{Name: user + "-" + c.ns, Namespace: namespace}
		_, err := c.api.RbacV1().Roles(namespace).Create(c.t.Context(), &rbacv1.Role{ObjectMeta: name, Rules: rules}, metav1.CreateOptions{})
		testkit.Must(c.t, err)
		_, err = c.api.RbacV1().RoleBindings(namespace).Create(c.t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: name, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name.Name},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
		}, metav1.CreateOptions{})
		testkit.Must(c.t, err)
	}
}
