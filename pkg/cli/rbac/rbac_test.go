package rbac

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// read returns the objects of some YAML.
func read(t testing.TB, text string) Objects {
	t.Helper()
	var o Objects
	for _, doc := range strings.Split(text, "\n---\n") {
		var head struct{ Kind string }
		into := func(v any) {
			if err := yaml.UnmarshalStrict([]byte("apiVersion: rbac.authorization.k8s.io/v1\n"+doc), v); err != nil {
				t.Fatalf("%v in\n%s", err, doc)
			}
		}
		if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		switch head.Kind {
		case "ClusterRole":
			o.ClusterRoles = append(o.ClusterRoles, rbacv1.ClusterRole{})
			into(&o.ClusterRoles[len(o.ClusterRoles)-1])
		case "Role":
			o.Roles = append(o.Roles, rbacv1.Role{})
			into(&o.Roles[len(o.Roles)-1])
		case "ClusterRoleBinding":
			o.ClusterRoleBindings = append(o.ClusterRoleBindings, rbacv1.ClusterRoleBinding{})
			into(&o.ClusterRoleBindings[len(o.ClusterRoleBindings)-1])
		case "RoleBinding":
			o.RoleBindings = append(o.RoleBindings, rbacv1.RoleBinding{})
			into(&o.RoleBindings[len(o.RoleBindings)-1])
		default:
			t.Fatalf("unknown kind %q", head.Kind)
		}
	}
	return o
}

// bound returns a role that is bound to a subject in a namespace, or in the cluster if that is empty.
func bound(namespace string, subject rbacv1.Subject, rules ...rbacv1.PolicyRule) Objects {
	role := rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "role"}, Rules: rules}
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: clusterRole, Name: "role"}
	o := Objects{ClusterRoles: []rbacv1.ClusterRole{role}}
	if namespace == "" {
		o.ClusterRoleBindings = []rbacv1.ClusterRoleBinding{{ObjectMeta: metav1.ObjectMeta{Name: "binding"}, Subjects: []rbacv1.Subject{subject}, RoleRef: ref}}
	} else {
		o.RoleBindings = []rbacv1.RoleBinding{{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "binding"}, Subjects: []rbacv1.Subject{subject}, RoleRef: ref}}
	}
	return o
}

func alice() rbacv1.Subject { return rbacv1.Subject{Kind: "User", Name: "alice"} }

// may returns a rule: verbs, groups and resources are separated by commas, core is the group "".
func may(verbs, groups, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{
		Verbs: strings.Split(verbs, ","), APIGroups: strings.Split(strings.ReplaceAll(groups, "core", ""), ","),
		Resources: strings.Split(resources, ","), ResourceNames: names,
	}
}

func TestAllowed(t *testing.T) {
	exec := Request{Verb: "create", Resource: "pods/exec", Namespace: "shop", Name: "web-0"}
	for _, tc := range []struct {
		name  string
		where string
		rule  rbacv1.PolicyRule
		ask   Request
		want  bool
	}{
		{"the same verb and resource", "shop", may("create", "core", "pods/exec"), exec, true},
		{"another verb", "shop", may("get", "core", "pods/exec"), exec, false},
		{"every verb", "shop", may("*", "core", "pods/exec"), exec, true},
		{"another group", "shop", may("create", "apps", "pods/exec"), exec, false},
		{"every group", "shop", may("create", "*", "pods/exec"), exec, true},
		{"one of the groups", "shop", may("create", "apps,core", "pods/exec"), exec, true},
		{"the resource without its subresource", "shop", may("create", "core", "pods"), exec, false},
		{"every resource", "shop", may("create", "core", "*"), exec, true},
		{"the subresource of every resource", "shop", may("create", "core", "*/exec"), exec, true},
		{"every subresource of the resource, which is no wildcard", "shop", may("create", "core", "pods/*"), exec, false},
		{"another subresource of every resource", "shop", may("create", "core", "*/attach"), exec, false},
		{"a subresource of every resource is not the resource", "shop", may("create", "core", "*/pods"), Request{Verb: "create", Resource: "pods", Namespace: "shop"}, false},
		{"its name", "shop", may("create", "core", "pods/exec", "web-0"), exec, true},
		{"another name", "shop", may("create", "core", "pods/exec", "web-1"), exec, false},
		{"a name for a create, which has none", "shop", may("create", "core", "pods", "web-0"), Request{Verb: "create", Resource: "pods", Namespace: "shop"}, false},
		{"any name", "shop", may("create", "core", "pods/exec", "web-1"), Request{Verb: "create", Resource: "pods/exec", Namespace: "shop", AnyName: true}, true},
		{"another namespace", "other", may("create", "core", "pods/exec"), exec, false},
		{"the whole cluster", "", may("create", "core", "pods/exec"), exec, true},
		{"the cluster's scope by a namespace's binding", "shop", may("get", "core", "nodes"), Request{Verb: "get", Resource: "nodes", Name: "n1"}, false},
		{"the cluster's scope", "", may("get", "core", "nodes"), Request{Verb: "get", Resource: "nodes", Name: "n1"}, true},
		{"an address that is no resource", "", rbacv1.PolicyRule{Verbs: []string{"create"}, NonResourceURLs: []string{"*"}}, exec, false},
	} {
		grants := New(bound(tc.where, alice(), tc.rule)).Allowed(tc.ask)
		if got := len(grants) == 1; got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, grants, tc.want)
		}
	}
}

func TestSubjects(t *testing.T) {
	secrets := Request{Verb: "get", Resource: "secrets", Namespace: "shop", Name: "db"}
	for _, tc := range []struct {
		name  string
		bound rbacv1.Subject
		asked Subject
		want  bool
	}{
		{"a user", alice(), Subject{Kind: "User", Name: "alice"}, true},
		{"a user is no group", alice(), Subject{Kind: "Group", Name: "alice"}, false},
		{"a service account", rbacv1.Subject{Kind: "ServiceAccount", Namespace: "shop", Name: "web"}, Account("shop", "web"), true},
		{"a service account of another namespace", rbacv1.Subject{Kind: "ServiceAccount", Namespace: "shop", Name: "web"}, Account("other", "web"), false},
		{"a service account by its user name", rbacv1.Subject{Kind: "User", Name: "system:serviceaccount:shop:web"}, Account("shop", "web"), true},
		{"the accounts of its namespace", rbacv1.Subject{Kind: "Group", Name: "system:serviceaccounts:shop"}, Account("shop", "web"), true},
		{"the accounts of another namespace", rbacv1.Subject{Kind: "Group", Name: "system:serviceaccounts:other"}, Account("shop", "web"), false},
		{"all accounts", rbacv1.Subject{Kind: "Group", Name: "system:serviceaccounts"}, Account("shop", "web"), true},
		{"all accounts and a user", rbacv1.Subject{Kind: "Group", Name: "system:serviceaccounts"}, Subject{Kind: "User", Name: "alice"}, false},
		{"system:authenticated", rbacv1.Subject{Kind: "Group", Name: "system:authenticated"}, Subject{Kind: "User", Name: "alice"}, true},
		{"system:authenticated and the anonymous user", rbacv1.Subject{Kind: "Group", Name: "system:authenticated"}, Subject{Kind: "User", Name: "system:anonymous"}, false},
	} {
		testkit.Equal(t, tc.name+": may", New(bound("", tc.bound, may("get", "core", "secrets"))).May(tc.asked, secrets), tc.want)
	}
}

func TestAggregation(t *testing.T) {
	p := New(read(t, `
kind: ClusterRole
metadata: {name: edit, labels: {aggregate-to-admin: "true"}}
aggregationRule: {clusterRoleSelectors: [{matchLabels: {aggregate-to-edit: "true"}}]}
rules: [{verbs: [create], apiGroups: [""], resources: [pods]}]
---
kind: ClusterRole
metadata: {name: mayfly-admin, labels: {aggregate-to-edit: "true"}}
rules: [{verbs: [update], apiGroups: [secrets-store.csi.x-k8s.io], resources: [secretproviderclasses]}]
---
kind: RoleBinding
metadata: {name: devs, namespace: shop}
subjects: [{kind: Group, name: devs}]
roleRef: {kind: ClusterRole, name: edit}
---
kind: RoleBinding
metadata: {name: gone, namespace: shop}
subjects: [{kind: Group, name: devs}]
roleRef: {kind: Role, name: absent}
`))
	update := Request{Verb: "update", Group: "secrets-store.csi.x-k8s.io", Resource: "secretproviderclasses", Namespace: "shop", Name: "db"}
	grants := p.Allowed(update)
	if len(grants) != 1 || grants[0].Part != "mayfly-admin" || grants[0].Role.Name != "edit" {
		t.Errorf("%+v", grants)
	}
	if grants := p.Allowed(Request{Verb: "create", Resource: "pods", Namespace: "shop"}); len(grants) != 1 || grants[0].Part != "" {
		t.Errorf("the rule of the role itself: %+v", grants)
	}
	if len(p.Dangling) != 1 || p.Dangling[0].Binding.Name != "gone" || p.Dangling[0].Role != (Ref{"Role", "shop", "absent"}) {
		t.Errorf("dangling: %+v", p.Dangling)
	}
}

func target() *Target {
	return &Target{
		Namespace: "shop", Class: "db", Accounts: []string{"default", "web"}, Secrets: []string{"db-secret"},
		Pods:            []Pod{{"shop", "web-0", "web", "n1"}},
		DriverNamespace: "mayfly", DriverPods: []Pod{{"mayfly", "mayfly-1", "mayfly", "n1"}},
	}
}

// ways lists a subject's ways, as "way" or "way as subject".
func ways(rows []Row, of Subject) []string {
	var found []string
	for _, row := range rows {
		if row.Subject != of {
			continue
		}
		for _, w := range row.Ways {
			text := w.Way
			if w.As != nil {
				text += " as " + w.As.String()
			}
			found = append(found, text)
		}
	}
	return found
}

func TestReach(t *testing.T) {
	const spc, rbac, csr, admission = "secrets-store.csi.x-k8s.io", "rbac.authorization.k8s.io", "certificates.k8s.io", "admissionregistration.k8s.io"
	rules := func(r ...rbacv1.PolicyRule) []rbacv1.PolicyRule { return r }
	for _, tc := range []struct {
		name  string
		where string
		rules []rbacv1.PolicyRule
		want  []string
	}{
		{"pods", "shop", rules(may("create", "core", "pods")), []string{WayPods}},
		{"pods of another namespace", "other", rules(may("create", "core", "pods")), nil},
		{"reading pods", "shop", rules(may("get,list,watch,delete", "core", "pods")), nil},
		{"deployments", "shop", rules(may("create", "apps", "deployments")), []string{WayWorkloads}},
		{"an edit of one stateful set", "shop", rules(may("patch", "apps", "statefulsets", "db")), []string{WayWorkloads}},
		{"cron jobs", "shop", rules(may("update", "batch", "cronjobs")), []string{WayWorkloads}},
		{"replication controllers", "shop", rules(may("create", "core", "replicationcontrollers")), []string{WayWorkloads}},
		{"a kind of Makers", "shop", rules(may("create", "argoproj.io", "rollouts")), []string{WayWorkloads}},
		{"a kind that Makers does not have", "shop", rules(may("create", "example.com", "things")), nil},
		{"exec", "shop", rules(may("create", "core", "pods/exec")), []string{WayExec}},
		{"exec into another pod", "shop", rules(may("create", "core", "pods/exec", "other")), nil},
		{"exec by get, which is not enough", "shop", rules(may("get", "core", "pods/exec")), nil},
		{"attach", "shop", rules(may("create", "core", "pods/attach")), []string{WayExec}},
		{"debug containers", "shop", rules(may("patch", "core", "pods/ephemeralcontainers")), []string{WayChange}},
		{"another image", "shop", rules(may("patch", "core", "pods", "web-0")), []string{WayChange}},
		{"every subresource, which is no wildcard", "shop", rules(may("*", "core", "pods/*")), nil},
		{"nodes", "", rules(may("get", "core", "nodes/proxy")), []string{WayNode, WayDriver}},
		{"tokens", "shop", rules(may("create", "core", "serviceaccounts/token")), []string{WayToken}},
		{"tokens of one account", "shop", rules(may("create", "core", "serviceaccounts/token", "web")), []string{WayToken}},
		{"tokens of an account that is not there", "shop", rules(may("create", "core", "serviceaccounts/token", "absent")), nil},
		{"token Secrets", "shop", rules(may("create,get", "core", "secrets")), []string{WayTokenSecret, WaySecret}},
		{"token Secrets that cannot be read", "shop", rules(may("create", "core", "secrets")), nil},
		{"the class", "shop", rules(may("patch", spc, "secretproviderclasses")), []string{WayClass}},
		{"the class, by deleting it", "shop", rules(may("delete,create", spc, "secretproviderclasses")), []string{WayClass}},
		{"another class", "shop", rules(may("create", spc, "secretproviderclasses")), nil},
		{"its Secret", "shop", rules(may("get", "core", "secrets", "db-secret")), []string{WaySecret}},
		{"another Secret", "shop", rules(may("get", "core", "secrets", "other")), nil},
		{"webhooks", "", rules(may("update", admission, "mutatingwebhookconfigurations", "one")), []string{WayWebhook}},
		{"mutating policies", "", rules(may("create", admission, "mutatingadmissionpolicies,mutatingadmissionpolicybindings")), []string{WayWebhook}},
		{"mutating policies without bindings", "", rules(may("create", admission, "mutatingadmissionpolicies")), nil},
		{"making a webhook of one name, which no create has", "", rules(may("create", admission, "mutatingwebhookconfigurations", "one")), nil},
		{"the driver's pods", "mayfly", rules(may("create", "core", "pods/exec")), []string{WayDriver}},
		{"pods beside the driver", "mayfly", rules(may("create", "core", "pods")), []string{WayDriver}},
		{"certificates", "", rules(may("create", csr, "certificatesigningrequests"), may("update", csr, "certificatesigningrequests/approval"), may("approve", csr, "signers", "kubernetes.io/kube-apiserver-client")), []string{WayCertificate}},
		{"certificates of kubelets", "", rules(may("create", csr, "certificatesigningrequests"), may("update", csr, "certificatesigningrequests/approval"), may("approve", csr, "signers", "kubernetes.io/kubelet-serving")), nil},
		{"binding with a role that gives nothing", "shop", rules(may("create", rbac, "rolebindings"), may("bind", rbac, "clusterroles", "viewer")), nil},
		{"binding with a role that gives pods", "shop", rules(may("create", rbac, "rolebindings"), may("bind", rbac, "clusterroles", "maker")), []string{WayBind}},
		{"binding without the right to bind", "shop", rules(may("create", rbac, "rolebindings")), nil},
		{"binding in the whole cluster by a namespace's right", "shop", rules(may("create", rbac, "clusterrolebindings"), may("bind", rbac, "clusterroles")), nil},
		{"binding in the whole cluster", "", rules(may("create", rbac, "clusterrolebindings"), may("bind", rbac, "clusterroles")), []string{WayBind}},
		{"escalating", "shop", rules(may("update,escalate", rbac, "roles")), []string{WayEscalate}},
		{"escalating without an edit", "shop", rules(may("escalate", rbac, "roles")), nil},
		{"editing roles without escalating", "shop", rules(may("update,create,patch", rbac, "roles")), nil},
		{"escalating ClusterRoles", "", rules(may("*", rbac, "clusterroles")), []string{WayEscalate}},
		{"impersonating the account that may", "ops", rules(may("impersonate", "core", "serviceaccounts", "deployer")), []string{WayImpersonate + " as ServiceAccount ops/deployer"}},
		{"impersonating another account", "ops", rules(may("impersonate", "core", "serviceaccounts", "other")), nil},
		{"tokens of the account that may", "ops", rules(may("create", "core", "serviceaccounts/token", "deployer")), []string{WayAccount + " as ServiceAccount ops/deployer"}},
		{"pods as the account that may", "ops", rules(may("create", "apps", "deployments")), []string{WayAccount + " as ServiceAccount ops/deployer"}},
		{"exec into the pod of the account that may", "ops", rules(may("create", "core", "pods/exec", "deployer-0")), []string{WayAccount + " as ServiceAccount ops/deployer"}},
		{"impersonating a user who may", "", rules(may("impersonate", "core", "users", "bob")), []string{WayImpersonate + " as User bob"}},
		{"impersonating a group that may, and no user", "", rules(may("impersonate", "core", "groups", "devs")), nil},
		{"impersonating a group that may, and a user", "", rules(may("impersonate", "core", "groups", "devs"), may("impersonate", "core", "users", "carol")), []string{WayImpersonate + " as Group devs"}},
		{"impersonating with constraint", "", rules(may("impersonate:user-info", "authentication.k8s.io", "users", "bob"), may("impersonate-on:user-info:create", "core", "pods")), []string{WayImpersonate + " as User bob"}},
		{"impersonating with constraint, for another request", "", rules(may("impersonate:user-info", "authentication.k8s.io", "users", "bob"), may("impersonate-on:user-info:get", "core", "pods")), nil},
		{"a chain", "ci", rules(may("create", "core", "pods")), []string{WayAccount + " as ServiceAccount ci/runner"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := bound(tc.where, alice(), tc.rules...)
			others := read(t, others)
			o.ClusterRoles = append(o.ClusterRoles, others.ClusterRoles...)
			o.Roles = append(o.Roles, others.Roles...)
			o.RoleBindings = append(o.RoleBindings, others.RoleBindings...)
			to := target()
			to.Makers = []schema.GroupResource{{Group: "argoproj.io", Resource: "rollouts"}}
			to.PodsOf = func(s Subject) []Pod {
				if s == Account("ops", "deployer") {
					return []Pod{{"ops", "deployer-0", "deployer", ""}}
				}
				return nil
			}
			rows := New(o).Reach(to)
			got := ways(rows, Subject{Kind: "User", Name: "alice"})
			if !slices.Equal(got, tc.want) {
				t.Errorf("%q, want %q", got, tc.want)
			}
			checkRows(t, New(o), rows)
		})
	}
}

// others has more subjects who reach the class: bob, the group devs and the account deployer may make
// pods, and the account runner may make deployer's tokens.
const others = `
kind: ClusterRole
metadata: {name: maker}
rules: [{verbs: [create], apiGroups: [""], resources: [pods]}]
---
kind: ClusterRole
metadata: {name: viewer}
rules: [{verbs: [get, list], apiGroups: [""], resources: [pods]}]
---
kind: Role
metadata: {name: tokens, namespace: ops}
rules: [{verbs: [create], apiGroups: [""], resources: [serviceaccounts/token], resourceNames: [deployer]}]
---
kind: RoleBinding
metadata: {name: makers, namespace: shop}
subjects: [{kind: User, name: bob}, {kind: Group, name: devs}, {kind: ServiceAccount, name: deployer, namespace: ops}]
roleRef: {kind: ClusterRole, name: maker}
---
kind: RoleBinding
metadata: {name: tokens, namespace: ops}
subjects: [{kind: ServiceAccount, name: runner, namespace: ci}]
roleRef: {kind: Role, name: tokens}`

// checkRows checks that the policy allows every request of a way to its subject.
func checkRows(t *testing.T, p *Policy, rows []Row) {
	t.Helper()
	for _, row := range rows {
		for _, w := range row.Ways {
			if len(w.Requests) == 0 || len(w.Grants) == 0 {
				t.Errorf("%s: %q has no requests or grants", row.Subject, w.Way)
			}
			for _, q := range w.Requests {
				if !p.May(row.Subject, q) {
					t.Errorf("%s may not %s", row.Subject, q)
				}
			}
		}
	}
}

// TestSystem: only subjects of Kubernetes itself are marked as system.
func TestSystem(t *testing.T) {
	o := read(t, `
kind: ClusterRole
metadata: {name: maker}
rules: [{verbs: [create], apiGroups: [""], resources: [pods]}]
---
kind: ClusterRoleBinding
metadata: {name: "system:controller:job-controller"}
subjects: [{kind: ServiceAccount, name: job-controller, namespace: kube-system}, {kind: ServiceAccount, name: guest, namespace: kube-system}]
roleRef: {kind: ClusterRole, name: maker}
---
kind: ClusterRoleBinding
metadata: {name: more}
subjects:
- {kind: Group, name: "system:masters"}
- {kind: Group, name: "system:authenticated"}
- {kind: Group, name: "system:serviceaccounts"}
- {kind: Group, name: "system:serviceaccounts:shop"}
- {kind: User, name: "system:kube-scheduler"}
- {kind: User, name: "system:anonymous"}
- {kind: User, name: "system:serviceaccount:kube-system:replicaset-controller"}
- {kind: User, name: bob}
roleRef: {kind: ClusterRole, name: maker}
`)
	var got []string
	for _, row := range New(o).Reach(target()) {
		got = append(got, fmt.Sprintf("%s %v %v", row.Subject, row.System, row.Subject.Everyone()))
	}
	want := []string{
		"Group system:authenticated false true", "Group system:masters true false", "Group system:serviceaccounts false true",
		"Group system:serviceaccounts:shop false false", "ServiceAccount kube-system/guest false false",
		"ServiceAccount kube-system/job-controller true false", "ServiceAccount kube-system/replicaset-controller false false",
		"User bob false false", "User system:anonymous false true", "User system:kube-scheduler true false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestExecByGet: before 1.35, get of pods/exec allows exec.
func TestExecByGet(t *testing.T) {
	to := target()
	to.ExecByGet = true
	rows := New(bound("shop", alice(), may("get", "core", "pods/exec"))).Reach(to)
	testkit.Equal(t, "alice's ways", ways(rows, Subject{Kind: "User", Name: "alice"}), []string{WayExec})
}

// TestGroupsOfAccounts: the parts of one way may be granted to a service account and to its groups.
func TestGroupsOfAccounts(t *testing.T) {
	o := read(t, `
kind: ClusterRole
metadata: {name: create}
rules: [{verbs: [create], apiGroups: [""], resources: [secrets]}]
---
kind: ClusterRole
metadata: {name: get}
rules: [{verbs: [get], apiGroups: [""], resources: [secrets], resourceNames: []}]
---
kind: RoleBinding
metadata: {name: create, namespace: shop}
subjects: [{kind: ServiceAccount, name: ci, namespace: ops}]
roleRef: {kind: ClusterRole, name: create}
---
kind: RoleBinding
metadata: {name: get, namespace: shop}
subjects: [{kind: Group, name: "system:serviceaccounts:ops"}]
roleRef: {kind: ClusterRole, name: get}
`)
	to := target()
	to.Secrets = nil
	rows := New(o).Reach(to)
	if got := ways(rows, Account("ops", "ci")); !slices.Equal(got, []string{WayTokenSecret}) {
		t.Errorf("%q of %+v", got, rows)
	}
}

// TestReduced: among thousands of pods and accounts, those that rules name are found.
func TestReduced(t *testing.T) {
	to := target()
	for i := range 3000 {
		to.Pods = append(to.Pods, Pod{"shop", fmt.Sprintf("web-%d", i+1), "web", fmt.Sprintf("n%d", i+2)})
		to.Accounts = append(to.Accounts, fmt.Sprintf("account-%d", i))
	}
	for name, rule := range map[string]rbacv1.PolicyRule{
		WayExec: may("create", "core", "pods/exec", "web-2999"), WayToken: may("create", "core", "serviceaccounts/token", "account-2999"),
	} {
		p := New(bound("shop", alice(), rule))
		testkit.Equal(t, name+": alice's ways", ways(p.Reach(to), Subject{Kind: "User", Name: "alice"}), []string{name})
	}
	p := New(bound("", alice(), may("*", "*", "*")))
	if n := len(p.Reach(to)[0].Ways[0].Requests); n > 10 {
		t.Errorf("%d requests for one way", n)
	}
}

// BenchmarkReach is of a large cluster: 2,000 bindings, and 3,000 pods.
func BenchmarkReach(b *testing.B) {
	o := read(b, others)
	for i := range 2000 {
		namespace := fmt.Sprintf("ns-%d", i%500)
		o.Roles = append(o.Roles, rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("role-%d", i)}, Rules: []rbacv1.PolicyRule{may("*", "core,apps", "*"), may("create", "core", "serviceaccounts/token")}})
		o.RoleBindings = append(o.RoleBindings, rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("binding-%d", i)}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: fmt.Sprintf("role-%d", i)},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "deployer", Namespace: fmt.Sprintf("ns-%d", (i+1)%500)}},
		})
	}
	for i := range 100 { // the accounts of 100 namespaces may make pods
		o.RoleBindings = append(o.RoleBindings, rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprintf("binding-%d", i)}, RoleRef: rbacv1.RoleRef{Kind: clusterRole, Name: "maker"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "deployer", Namespace: fmt.Sprintf("ns-%d", i)}},
		})
	}
	to := target()
	for i := range 3000 {
		to.Pods = append(to.Pods, Pod{"shop", fmt.Sprintf("web-%d", i+1), "web", "n1"})
	}
	p := New(o)
	for b.Loop() {
		p.Reach(to)
	}
}
