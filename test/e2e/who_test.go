//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mayfly-csi/mayfly/pkg/cli"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/rbac"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

// inProcess runs kubectl mayfly in this process, as the administrator, or as the user of --as, and
// returns its exit code and its output.
func (c *tenant) inProcess(args ...string) (int, []byte) {
	c.t.Helper()
	var out, errs bytes.Buffer
	args = append(args, "--kubeconfig", c.node.Kubeconfig(), "-n", c.ns, "-o", "json")
	code := cli.Run(args, output.Streams{In: strings.NewReader(""), Out: &out, Err: &errs, Getenv: os.Getenv, Version: "test"})
	if code > 1 {
		c.t.Fatalf("kubectl mayfly %q: exit code %d: %s", args, code, &errs)
	}
	if leaked := leaked(out.Bytes()); leaked != "" {
		c.t.Errorf("kubectl mayfly %q prints a secret: %s", args, leaked)
	}
	return code, out.Bytes()
}

// whoAnswer is the output of the command who.
type whoAnswer struct {
	Can struct{ Subjects []rbac.Row }
	Did struct {
		Readers []struct {
			Pod, ServiceAccount, Node string
			Reads, Failures           int
			Versions                  map[string][]string
			LastFailure               struct{ Reason string }
		}
	}
	Findings []finding.Finding
}

func (c *tenant) who(args ...string) whoAnswer {
	c.t.Helper()
	_, data := c.inProcess(append([]string{"who"}, args...)...)
	var a whoAnswer
	testkit.Must(c.t, json.Unmarshal(data, &a))
	return a
}

// grantee is a user with some rights in the namespace, or in the cluster. who names it if one of the
// rights leads to the class's secrets.
type grantee struct {
	name    string
	cluster bool
	rules   []rbacv1.PolicyRule
	named   bool
}

func may(verbs, groups, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{
		Verbs: strings.Split(verbs, ","), APIGroups: strings.Split(strings.ReplaceAll(groups, "core", ""), ","),
		Resources: strings.Split(resources, ","), ResourceNames: names,
	}
}

func grantees() []grantee {
	const spc = "secrets-store.csi.x-k8s.io"
	rules := func(r ...rbacv1.PolicyRule) []rbacv1.PolicyRule { return r }
	return []grantee{
		{"pods", false, rules(may("create", "core", "pods")), true},
		{"jobs", false, rules(may("create", "batch", "jobs")), true},
		{"exec", false, rules(may("create", "core", "pods/exec", "reader")), true},
		{"exec-elsewhere", false, rules(may("create", "core", "pods/exec", "other")), false},
		{"every-exec", false, rules(may("*", "*", "*/exec")), true},
		{"no-wildcard", false, rules(may("*", "core", "pods/*")), false},
		{"debug", false, rules(may("patch", "core", "pods/ephemeralcontainers")), true},
		{"token", false, rules(may("create", "core", "serviceaccounts/token", account)), true},
		{"class", false, rules(may("update", spc, "secretproviderclasses", "db")), true},
		{"other-class", false, rules(may("update", spc, "secretproviderclasses", "other")), false},
		{"viewer", false, rules(may("get,list,watch", "core,apps,"+spc, "*")), false},
		{"impersonator", false, rules(may("impersonate", "core", "serviceaccounts", account)), false},
		{"nodes", true, rules(may("get", "core", "nodes/proxy")), true},
		{"binder", false, rules(may("create", "rbac.authorization.k8s.io", "rolebindings"), may("bind", "rbac.authorization.k8s.io", "clusterroles", "edit")), true},
		{"useless-binder", false, rules(may("create", "rbac.authorization.k8s.io", "rolebindings"), may("bind", "rbac.authorization.k8s.io", "clusterroles", "view")), false},
		{"escalator", false, rules(may("update,escalate", "rbac.authorization.k8s.io", "roles")), true},
	}
}

// grant makes a role of a name for a subject.
func (c *tenant) grant(name string, cluster bool, subject rbacv1.Subject, rules ...rbacv1.PolicyRule) {
	c.t.Helper()
	ctx, api := c.t.Context(), c.api.RbacV1()
	subjects := []rbacv1.Subject{subject}
	if !cluster {
		testkit.Value(api.Roles(c.ns).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{}))(c.t)
		testkit.Value(api.RoleBindings(c.ns).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		}, metav1.CreateOptions{}))(c.t)
		return
	}
	name = c.ns + "-" + name
	c.t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		_ = api.ClusterRoleBindings().Delete(ctx, name, metav1.DeleteOptions{})
		_ = api.ClusterRoles().Delete(ctx, name, metav1.DeleteOptions{})
	})
	testkit.Value(api.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{}))(c.t)
	testkit.Value(api.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
	}, metav1.CreateOptions{}))(c.t)
}

func (c *tenant) user(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: c.ns + "-" + name}
}

// accessReviewAs returns a function that asks the API server, as the subject, whether it allows a
// request.
func (c *tenant) accessReviewAs(s rbac.Subject) func(context.Context, rbac.Request) (bool, error) {
	config := testkit.Value(clientcmd.BuildConfigFromFlags("", c.node.Kubeconfig()))(c.t)
	config.QPS = -1
	switch s.Kind {
	case rbacv1.UserKind:
		config.Impersonate = rest.ImpersonationConfig{UserName: s.Name}
	case rbacv1.GroupKind:
		config.Impersonate = rest.ImpersonationConfig{UserName: "one-of-" + c.ns, Groups: []string{s.Name}}
	default:
		config.Impersonate = rest.ImpersonationConfig{UserName: "system:serviceaccount:" + s.Namespace + ":" + s.Name}
	}
	api := testkit.Value(kubernetes.NewForConfig(config))(c.t)
	return func(ctx context.Context, q rbac.Request) (bool, error) {
		resource, sub, _ := strings.Cut(q.Resource, "/")
		review, err := api.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: q.Namespace, Verb: q.Verb, Group: q.Group, Resource: resource, Subresource: sub, Name: q.Name},
		}}, metav1.CreateOptions{})
		if err != nil {
			return false, err
		}
		return review.Status.Allowed, nil
	}
}

// whoCommand compares the output of who with the API server's access reviews and with the pods that
// read the secret.
func whoCommand(c *tenant) {
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	c.account("other")
	c.run(newPod("reader", printOnce, mounts("db")))
	c.start(newPod("refused", printOnce, mounts("db"), as("other")))
	for _, p := range grantees() {
		c.grant(p.name, p.cluster, c.user(p.name), p.rules...)
	}
	c.grant("random", false, c.user("nobody"))
	c.until("who to name the subjects that the API server allows", func(ctx context.Context) error { return c.checkWhoCan(ctx) })
	c.until("who to name the readers", func(context.Context) error { return c.checkWhoDid() })
	c.until("the plugin to evaluate RBAC like the API server", func(ctx context.Context) error { return c.compareWithAPIServer(ctx) })
}

func (c *tenant) checkWhoCan(ctx context.Context) error {
	answer := c.who("db", "--only", "can")
	for _, f := range answer.Findings {
		if f.Code == finding.CodeNotReadable {
			return fmt.Errorf("as the administrator: %s", f.Message)
		}
	}
	found := map[string]bool{}
	for _, row := range answer.Can.Subjects {
		found[row.Subject.Name] = true
		if row.Subject.Name == "system:masters" || strings.HasPrefix(row.Subject.Name, "e2e-") && !strings.HasPrefix(row.Subject.Name, c.ns) {
			continue // system:masters needs no role; the others are users of cases that run now
		}
		ask := c.accessReviewAs(row.Subject)
		for _, w := range row.Ways {
			for _, q := range w.Requests {
				allowed, err := ask(ctx, q)
				if err != nil {
					return err
				}
				if !allowed {
					return fmt.Errorf("%s: %s needs %s in %q, which the API server denies", row.Subject, w.Way, q, q.Namespace)
				}
			}
		}
	}
	for _, p := range grantees() {
		if got := found[c.user(p.name).Name]; got != p.named {
			return fmt.Errorf("%s is named: %t, want %t", p.name, got, p.named)
		}
	}
	return nil
}

func (c *tenant) checkWhoDid() error {
	answer := c.who("db", "--only", "did")
	found := map[string]bool{}
	for _, r := range answer.Did.Readers {
		found[r.Pod] = true
		switch {
		case r.Pod == "reader" && (r.Reads == 0 || r.ServiceAccount != account || r.Node != c.node.Name() || !slices.Equal(r.Versions["password"], []string{"1"})),
			r.Pod == "refused" && (r.Reads > 0 || r.Failures == 0 || r.LastFailure.Reason != "Denied" || r.ServiceAccount != "other"):
			return fmt.Errorf("reader %+v", r)
		}
	}
	if len(found) != 2 || !found["reader"] || !found["refused"] {
		return fmt.Errorf("readers %v", found)
	}
	return nil
}

// compareWithAPIServer makes random roles, and compares the plugin's decisions with the API server's.
func (c *tenant) compareWithAPIServer(ctx context.Context) error {
	random := rand.New(rand.NewPCG(1, uint64(len(c.ns))))
	verbs, groups := []string{"get", "create", "patch", "impersonate", "*"}, []string{"", "apps", "batch", "*"}
	resources := []string{"pods", "pods/exec", "pods/*", "*/exec", "*", "secrets", "deployments", "deployments/scale", "*/scale", "serviceaccounts/token", "users"}
	names := []string{"a", "b"}
	pick := func(from []string, most int) []string {
		var some []string
		for range 1 + random.IntN(most) {
			some = append(some, from[random.IntN(len(from))])
		}
		return some
	}
	subjects := []rbacv1.Subject{
		c.user("one"), c.user("two"), {APIGroup: rbacv1.GroupName, Kind: "Group", Name: c.ns + "-three"}, {Kind: "ServiceAccount", Namespace: c.ns, Name: "four"},
		{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "system:serviceaccounts:" + c.ns}, {APIGroup: rbacv1.GroupName, Kind: "User", Name: "system:serviceaccount:" + c.ns + ":five"},
	}
	for i := range 30 {
		rule := rbacv1.PolicyRule{Verbs: pick(verbs, 2), APIGroups: pick(groups, 2), Resources: pick(resources, 3)}
		if random.IntN(3) == 0 {
			rule.ResourceNames = pick(names, 2)
		}
		name := fmt.Sprintf("random-%d", i)
		if _, err := c.api.RbacV1().Roles(c.ns).Get(ctx, name, metav1.GetOptions{}); err != nil {
			c.grant(name, false, subjects[i%len(subjects)], rule)
		}
	}
	objects, unseen := rbac.Load(ctx, c.api, c.ns)
	if len(unseen) > 0 {
		return fmt.Errorf("not seen: %+v", unseen)
	}
	policy := rbac.New(objects)
	for _, s := range []rbac.Subject{
		{Kind: "User", Name: c.ns + "-one"}, {Kind: "User", Name: c.ns + "-two"}, {Kind: "Group", Name: c.ns + "-three"},
		rbac.Account(c.ns, "four"), rbac.Account(c.ns, "five"), rbac.Account(c.ns, "six"),
	} {
		ask := c.accessReviewAs(s)
		for _, verb := range []string{"get", "create", "list"} {
			for _, resource := range []string{"pods", "pods/exec", "pods/log", "secrets", "deployments", "deployments/scale", "serviceaccounts/token"} {
				for _, name := range []string{"", "a", "c"} {
					q := rbac.Request{Verb: verb, Resource: resource, Namespace: c.ns, Name: name}
					if strings.HasPrefix(resource, "deployments") {
						q.Group = "apps"
					}
					want, err := ask(ctx, q)
					if err != nil {
						return err
					}
					if got := policy.May(s, q); got != want {
						return fmt.Errorf("%s may %s: the plugin says %t, the API server %t", s, q, got, want)
					}
				}
			}
		}
	}
	return nil
}

// doctorReport is the output of the command doctor.
type doctorReport struct {
	Checks   []finding.Check
	Findings []finding.Finding
}

func (c *tenant) doctor(args ...string) doctorReport {
	c.t.Helper()
	_, data := c.inProcess(append([]string{"doctor"}, args...)...)
	var r doctorReport
	testkit.Must(c.t, json.Unmarshal(data, &r))
	return r
}

func (r doctorReport) state(title string) finding.State {
	for _, check := range r.Checks {
		if check.Title == title {
			return check.State
		}
	}
	return ""
}

func (r doctorReport) has(code string, object finding.Object) bool {
	return slices.ContainsFunc(r.Findings, func(f finding.Finding) bool { return f.Code == code && f.Object == object })
}

// doctorCommand runs doctor as the administrator, and as a user with ClusterRole view in one namespace,
// for whom it must name what it could not read.
func doctorCommand(c *tenant) {
	ctx := c.t.Context()
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	c.classWithSecrets("unwritten", nil, opaque("env"))                   // syncSecret is off
	c.start(newPod("as-default", printOnce, mounts("db"), as("default"))) // Vault's role refuses it
	c.run(newPod("with-env", "exec sleep 100000", func(p *corev1.Pod) {
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: "mine"}, Key: "password", Optional: new(true),
		}}}}
	}))
	testkit.Value(c.api.CoreV1().ConfigMaps(c.ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "app"}, Data: map[string]string{"DB_PASSWORD": marker + "Aa1!"}}, metav1.CreateOptions{}))(c.t)
	testkit.Value(c.api.CoreV1().Secrets(c.ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, StringData: map[string]string{"password": marker}}, metav1.CreateOptions{}))(c.t)
	c.grant("reads-all", true, c.user("reads-all"), may("list", "core", "secrets"))
	admin := c.doctor()
	for _, title := range []string{"the driver's installation", "audit trail", "the driver on every node", "CRDs", "admission policies", "the driver's flags"} {
		if state := admin.state(title); state != finding.Good {
			c.t.Errorf("%s: %q in %+v", title, state, admin)
		}
	}
	for code, object := range map[string]finding.Object{
		finding.CodeDefaultAccount: {Kind: "Pod", Namespace: c.ns, Name: "as-default"},
		finding.CodePlainText:      {Kind: "ConfigMap", Namespace: c.ns, Name: "app"},
		finding.CodeSecretInEnv:    {Kind: "Pod", Namespace: c.ns, Name: "with-env"},
		finding.CodeCouldMount:     {Kind: "Namespace", Name: c.ns},
		finding.CodeReadsAll:       {Kind: "User", Name: c.user("reads-all").Name},
		finding.CodeSecretsOff:     {Kind: "SecretProviderClass", Namespace: c.ns, Name: "unwritten"},
		// The node's API server has no encryption configuration.
		finding.CodeNotEncrypted: {Kind: "APIServer"},
	} {
		if !admin.has(code, object) {
			c.t.Errorf("no %s of %s in %+v", code, object, admin.Findings)
		}
	}
	for _, f := range admin.Findings {
		if f.Code == finding.CodeNotReadable {
			c.t.Errorf("doctor could not read as the administrator: %s: %s", f.Object, f.Message)
		}
	}
	c.doctorAsViewer()
}

func (c *tenant) doctorAsViewer() {
	viewer := c.user("viewer")
	testkit.Value(c.api.RbacV1().RoleBindings(c.ns).Create(c.t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "viewer"}, Subjects: []rbacv1.Subject{viewer}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
	}, metav1.CreateOptions{}))(c.t)
	object := finding.Object{Kind: "ConfigMap", Namespace: c.ns, Name: "app"}
	c.until("the viewer's rights", func(context.Context) error {
		r := c.doctor("--as", viewer.Name)
		if !r.has(finding.CodePlainText, object) {
			return fmt.Errorf("no plain-text finding in %+v", r.Findings)
		}
		for _, title := range []string{"Secrets at rest", "readers of Secrets", "Secrets that classes could replace", "audit trail", "the driver on every node", "CRDs", "admission policies"} {
			if state := r.state(title); state != finding.Unknown {
				return fmt.Errorf("%s is %q for the viewer", title, state)
			}
		}
		if !r.has(finding.CodeNotReadable, finding.Object{Kind: "Secret", Namespace: c.ns, Name: "*"}) {
			return fmt.Errorf("no finding for Secrets that doctor could not list: %+v", r.Findings)
		}
		who := doctorReport{Findings: c.who("db", "--as", viewer.Name).Findings}
		for _, kind := range []string{"ClusterRole", "ClusterRoleBinding"} {
			if !who.has(finding.CodeNotReadable, finding.Object{Kind: kind, Name: "*"}) {
				return fmt.Errorf("who has no finding for a %s that it could not list: %+v", kind, who.Findings)
			}
		}
		return nil
	})
}

// tryCommand runs kubectl mayfly try on a class that works, and on one that does not: the commands of
// its findings repair that class, and its pod then runs.
func tryCommand(c *tenant) {
	c.put("db", "one")
	c.class("db", nil, c.object("password", "db"))
	if found := c.try("db"); len(found) > 0 {
		c.t.Fatalf("try finds %+v in a class that works", found)
	}
	c.start(newPod("works", printOnce, mounts("db")))
	c.awaitPod("works", isRunning)
	c.awaitLog("works", marker+"one\n")

	role := c.ns + "-repaired"
	c.class("repaired", map[string]string{"roleName": role}, c.object("password", "db"))
	c.start(newPod("repaired", printOnce, mounts("repaired")))
	c.awaitEvent("repaired", failedMount, "invalid role name")
	c.runRemedy("repaired", finding.CodeTryLogin)
	// The role exists by now, and this removes its policy.
	testkit.Must(c.t, c.vault.Role(c.t.Context(), authMount, role, map[string]any{"token_policies": "default"}))
	c.runRemedy("repaired", finding.CodeTryNoRight)
	if found := c.try("repaired"); len(found) > 0 {
		c.t.Fatalf("try still finds %+v after its commands ran", found)
	}
	c.awaitPod("repaired", isRunning)
	c.awaitLog("repaired", marker+"one\n")
}

// try returns the command's findings about a class for the tenant's service account.
func (c *tenant) try(class string) []finding.Finding {
	c.t.Helper()
	var out, errs bytes.Buffer
	code := cli.Run([]string{"try", class, "-n", c.ns, "--serviceaccount", account, "--kubeconfig", c.node.Kubeconfig(), "-o", "json"},
		output.Streams{Out: &out, Err: &errs, Getenv: os.Getenv, Version: "e2e"})
	var report struct{ Findings []finding.Finding }
	if err := json.Unmarshal(out.Bytes(), &report); err != nil || code == 2 {
		c.t.Fatalf("exit code %d, %v: %s", code, err, &errs)
	}
	if strings.Contains(out.String(), marker) {
		c.t.Errorf("try prints a secret: %s", &out)
	}
	return report.Findings
}

// runRemedy checks that try has one finding for a class, and runs the commands of its remedy.
func (c *tenant) runRemedy(class, code string) {
	c.t.Helper()
	found := c.try(class)
	if len(found) != 1 || found[0].Code != code {
		c.t.Fatalf("found %+v, want one %s", found, code)
	}
	program := testkit.Value(toolcache.Get(c.t.Context(), c.out, "vault"))(c.t)
	sh := exec.CommandContext(c.t.Context(), "sh", "-euc", found[0].Remedy)
	sh.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"), "VAULT_ADDR="+c.vault.Address, "VAULT_TOKEN="+c.vault.RootToken)
	if said, err := sh.CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %s\n%s", err, said, found[0].Remedy)
	}
}
