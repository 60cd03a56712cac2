//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
	"github.com/mayfly-csi/mayfly/pkg/cli"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/trace"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/audittest"
	"github.com/mayfly-csi/mayfly/test/collector"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// auditQueries runs the queries of docs/audit.md on the driver's log and on the audit logs of Vault and
// of the API server.
func auditQueries(c *tenant) {
	c.account("other-account")
	c.put("db", "one")
	c.class("web-secrets", nil, c.object("db-password", "db"))
	c.run(newPod("web-0", "exec sleep 100000", mounts("web-secrets")))
	c.start(newPod("other-account", printOnce, as("other-account"), mounts("web-secrets")))
	c.awaitEvent("other-account", mountFailed)
	pod := c.ns + "/web-0"
	// Words of the answer to each query, in the page's order.
	want := [][]string{
		{pod + "\t1"},
		{"publish\tweb-secrets\tdb-password\t1"},
		{"web-0\tweb-secrets\tvault\tdb-password"},
		{"Denied\t", "other-account"},
		{"update\t" + loginPath + "\t", "read\t" + kvMount + "/data/" + c.ns + "/db\t"},
		{"system:node:" + c.node.Name() + "\t" + c.ns + "/" + account + "\t"},
	}
	recipes := audittest.Recipes(c.t, "audit.md", "recipes")
	if len(recipes) != len(want) {
		c.t.Fatalf("the page has %d queries, this test %d", len(recipes), len(want))
	}
	trail := filepath.Join(c.t.TempDir(), "mayfly.log")
	files := map[string]string{"mayfly.log": trail, "vault-audit.log": c.vault.AuditFile, "audit.log": c.node.AuditLog()}
	for i, words := range want {
		recipe := strings.ReplaceAll(recipes[i], `"shop"`, `"`+c.ns+`"`)
		c.until("the answer of "+recipe, func(ctx context.Context) error {
			if err := c.driver.writeAuditTrail(ctx, trail); err != nil {
				return err
			}
			if answer := strings.Join(audittest.RunRecipe(c.t, recipe, files), "\n"); !containsAll(answer, words) {
				return fmt.Errorf("it is %q, want %q in it", answer, words)
			}
			return nil
		})
	}
}

// writeAuditTrail extracts the audit trail from the log of the driver's pods, as docs/audit.md does.
func (r *release) writeAuditTrail(ctx context.Context, file string) error {
	pods, err := r.pods(ctx)
	if err != nil {
		return err
	}
	var lines bytes.Buffer
	for _, pod := range pods {
		log, err := r.api.CoreV1().Pods(releaseNamespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
		if err != nil {
			return fmt.Errorf("reading the log of pod %s: %w", pod.Name, err)
		}
		for line := range bytes.Lines(log) {
			if bytes.HasPrefix(line, []byte(`{"apiVersion":"`+chain.Version)) && bytes.HasSuffix(line, []byte("\n")) {
				lines.Write(line)
			}
		}
	}
	return os.WriteFile(file, lines.Bytes(), 0o600)
}

// lastAuditChain returns the last chain in the log of the driver's present container.
func (c *tenant) lastAuditChain() *chain.Chain {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "trail")
	var chains []*chain.Chain
	c.until("a line of the audit trail", func(ctx context.Context) error {
		if err := c.driver.writeAuditTrail(ctx, file); err != nil {
			return err
		}
		lines, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if chains = audittest.Chains(c.t, lines); len(chains) == 0 {
			err = errors.New("there is none")
		}
		return err
	})
	return chains[len(chains)-1]
}

// spansExported checks the spans of a pod's publish and release at the collector.
func spansExported(c *tenant) {
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	pod := c.run(newPod("reader", printOnce, mounts("db")))
	published := c.awaitSpans(pod, volume.Published)
	steps := published[string(volume.StepStore)]
	for _, name := range []string{string(volume.StepClass), string(volume.StepMount), string(volume.StepWrite), string(volume.StepRecord)} {
		if len(published[name]) != 1 {
			c.t.Errorf("the publish has %d spans %s, want 1", len(published[name]), name)
		}
	}
	if len(steps) != 1 {
		c.t.Fatalf("the publish has %d spans %s, want 1", len(steps), volume.StepStore)
	}
	login, read := published[string(endpoint.OpLogin)], published[string(endpoint.OpRead)]
	if len(login) != 1 || len(read) != 1 || login[0].Parent != steps[0].ID || read[0].Parent != steps[0].ID {
		c.t.Fatalf("the requests to Vault are %+v and %+v", login, read)
	}
	if about := read[0].About; about["k8s.node.name"] != c.node.Name() || about["service.version"] != versions[0] {
		c.t.Errorf("the spans are of %v", about)
	}
	entries := testkit.Value(c.vault.AuditEntries(c.t.Context()))(c.t)
	id, path := read[0].Attributes[trace.KeyCorrelation], kvMount+"/data/"+c.ns+"/db"
	found := false
	for _, e := range entries {
		found = found || e.Path == path && slices.Contains(e.Headers["x-correlation-id"], id)
	}
	if id == "" || !found {
		c.t.Errorf("Vault's audit log has no read %q of %s", id, path)
	}
	c.delete("reader")
	if released := c.awaitSpans(pod, volume.Released); len(released[string(endpoint.OpRevoke)]) != 1 {
		c.t.Errorf("the release has the spans %v", released)
	}
}

// awaitSpans waits for a successful span of that kind for a pod, and returns the spans of its trace by
// name.
func (c *tenant) awaitSpans(pod *corev1.Pod, kind volume.Kind) (spans map[string][]collector.Span) {
	c.t.Helper()
	c.until(fmt.Sprintf("the spans of the %s of pod %s", kind, pod.Name), func(context.Context) error {
		all := c.collector.Spans()
		root := slices.IndexFunc(all, func(s collector.Span) bool {
			return s.Name == string(kind) && s.Attributes[trace.KeyPodUID] == string(pod.UID) && !s.Failed
		})
		if root < 0 {
			return fmt.Errorf("there are %d other spans", len(all))
		}
		spans = map[string][]collector.Span{}
		for _, s := range all {
			if s.Trace == all[root].Trace {
				spans[s.Name] = append(spans[s.Name], s)
			}
		}
		return nil
	})
	return spans
}

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
		testkit.Value(c.api.RbacV1().Roles(namespace).Create(c.t.Context(), &rbacv1.Role{ObjectMeta: name, Rules: rules}, metav1.CreateOptions{}))(c.t)
		testkit.Value(c.api.RbacV1().RoleBindings(namespace).Create(c.t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: name, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name.Name},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
		}, metav1.CreateOptions{}))(c.t)
	}
}
