package chart

import (
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestAdmissionPolicyIsThereWhereItCanBe(t *testing.T) {
	for _, tt := range []struct {
		kube, set string
		want      int
	}{
		{newest, "", 2},
		{"1.30.0", "", 2},
		{"1.30.4-eks-1", "", 2},
		{"1.29.9", "", 0},
		{"1.29.9", "rbac.admissionPolicy=true", 2},
		{newest, "rbac.admissionPolicy=false", 0},
		{newest, "rbac.install=false", 2},
	} {
		all := decode(t, render(t, tt.kube, "--set", tt.set))
		if len(all.admission) != tt.want || len(all.admitting) != tt.want {
			t.Errorf("Kubernetes %s, %s: %d policies and %d bindings, want %d", tt.kube, tt.set, len(all.admission), len(all.admitting), tt.want)
		}
	}
}

func driversPolicy(t *testing.T, all *objects) (policy admissionv1.ValidatingAdmissionPolicy, binding admissionv1.ValidatingAdmissionPolicyBinding) {
	t.Helper()
	for _, p := range all.admission {
		if strings.HasSuffix(p.Name, "driver-on-its-node") {
			policy = p
		}
	}
	for _, b := range all.admitting {
		if strings.HasSuffix(b.Name, "driver-on-its-node") {
			binding = b
		}
	}
	if policy.Name == "" || binding.Name == "" {
		t.Fatal("there is no policy for the driver")
	}
	return policy, binding
}

// changes are the operations by which RBAC's verbs change objects.
var changes = map[string]admissionv1.OperationType{
	"create": admissionv1.Create, "update": admissionv1.Update, "patch": admissionv1.Update, "delete": admissionv1.Delete,
}

// TestAdmissionPolicyCoversEveryRight: the policy sees every change that the driver's role allows,
// and denies what it should.
func TestAdmissionPolicyCoversEveryRight(t *testing.T) {
	for _, set := range []string{"", "startupTaint.remove=true"} {
		all := decode(t, render(t, newest, "--set", set))
		policy, binding := driversPolicy(t, all)
		if binding.Spec.PolicyName != policy.Name || !slices.Equal(binding.Spec.ValidationActions, []admissionv1.ValidationAction{admissionv1.Deny}) ||
			binding.Spec.MatchResources != nil || *policy.Spec.FailurePolicy != admissionv1.Fail {
			t.Errorf("the binding is %+v", binding.Spec)
		}
		for _, right := range rights(t, all) {
			resource, verb, _ := strings.Cut(right, ": ")
			operation, isChange := changes[verb]
			if isChange && !covers(policy, resource, operation) {
				t.Errorf("%s: the policy does not see %s", set, right)
			}
		}
	}
}

func covers(p admissionv1.ValidatingAdmissionPolicy, resource string, operation admissionv1.OperationType) bool {
	for _, r := range p.Spec.MatchConstraints.ResourceRules {
		for _, g := range r.APIGroups {
			for _, name := range r.Resources {
				if g+"/"+name == resource && slices.Contains(r.Operations, operation) {
					return true
				}
			}
		}
	}
	return false
}

// TestAdmissionPolicyNamesWhatTheDriverWrites: the policy has the driver's own names.
func TestAdmissionPolicyNamesWhatTheDriverWrites(t *testing.T) {
	all := decode(t, renderSet(t, "side-by-side"))
	var text strings.Builder
	policy, _ := driversPolicy(t, all)
	for _, v := range policy.Spec.Validations {
		text.WriteString(v.Expression + "\n")
	}
	subject := all.bindings[0].Subjects[0]
	user := "'system:serviceaccount:" + subject.Namespace + ":" + subject.Name + "'"
	if subject.Kind != rbacv1.ServiceAccountKind || !strings.Contains(policy.Spec.MatchConditions[0].Expression, user) {
		t.Errorf("the policy is not for %s", user)
	}
	for _, word := range []string{v1.NodeLabel, names.NodeAnnotation, v1.SecretProviderClassPodStatusResource, all.drivers[0].Name, names.EventComponent} {
		testkit.Has(t, text.String(), "'"+word+"'")
	}
}

func container(t *testing.T, set ...string) corev1.Container {
	t.Helper()
	return decode(t, render(t, newest, set...)).daemonSets[0].Spec.Template.Spec.Containers[0]
}

// TestAllowedAddresses: with a default server and no list, classes may name no other; "*" means
// any.
func TestAllowedAddresses(t *testing.T) {
	stores := map[string]struct{ own, list, flag string }{
		"vault":    {"vault.address", "vault.allowedAddresses", "--vault-allowed-addresses="},
		"akeyless": {"akeyless.gatewayURL", "akeyless.allowedAddresses", "--akeyless-allowed-addresses="},
	}
	tests := []struct{ name, own, list, want string }{
		{"neither", "", `[]`, ""},
		{"the server alone", "https://store.test:8200", `[]`, "https://store.test:8200"},
		{"a path is no part of a list", "https://store.test/a/b", `[]`, "https://store.test"},
		{"a list", "https://store.test", `["https://other.test"]`, "https://other.test"},
		{"any", "https://store.test", `["*"]`, ""},
	}
	for store, s := range stores {
		for _, tt := range tests {
			t.Run(store+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				var got string
				for _, arg := range container(t, "--set", s.own+"="+tt.own, "--set-json", s.list+"="+tt.list).Args {
					if value, ok := strings.CutPrefix(arg, s.flag); ok {
						got = value
					}
				}
				if got != tt.want {
					t.Errorf("%s%q, want %q", s.flag, got, tt.want)
				}
			})
		}
	}
}

// TestHealthAddress: the probes ask where the driver listens.
func TestHealthAddress(t *testing.T) {
	for address, want := range map[string]string{"": ":9808", "127.0.0.1": "127.0.0.1:9808", "::1": "[::1]:9808"} {
		c := container(t, "--set", "linux.hostNetwork=true,health.address="+address)
		if arg := "--health-addr=" + want; !slices.Contains(c.Args, arg) {
			t.Errorf("no argument %s in %q", arg, c.Args)
		}
		for _, probe := range []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe} {
			if probe.HTTPGet.Host != address {
				t.Errorf("a probe asks host %q, want %q", probe.HTTPGet.Host, address)
			}
		}
	}
}

// TestGoodIntervalsAndLimits: the schema refuses only what would crash.
func TestGoodIntervalsAndLimits(t *testing.T) {
	for _, interval := range []string{"1s", "1500ms", "0.5m", "1h30m", "0h1m", "1m0s", "90s"} {
		render(t, newest, "--set", "refresh.interval="+interval+",refresh.minInterval="+interval)
	}
	for _, limit := range []string{"64Mi", "1Gi", "192M", "67108864", "0.5Gi", "134217728000m"} {
		render(t, newest, "--set-string", "linux.driver.resources.limits.memory="+limit)
	}
	render(t, newest, "--set-json", "linux.driver.resources.limits=null")
	render(t, newest, "--set", "linux.extraArgs[0]=--log-level=debug")
}

// TestHelmTest: the test pod has the driver's own image and command line, and no label by which the
// DaemonSet or a monitor would select it.
func TestHelmTest(t *testing.T) {
	all := decode(t, renderSet(t, "everything"))
	if len(all.pods) != 1 || all.pods[0].Annotations["helm.sh/hook"] != "test" {
		t.Fatalf("%d pods, want one that is a test", len(all.pods))
	}
	got, want := all.pods[0].Spec.Containers[0], all.daemonSets[0].Spec.Template.Spec.Containers[0]
	if got.Image != want.Image || !slices.Equal(got.Args, append(want.Args, "--version")) {
		t.Errorf("the test runs %s %q", got.Image, got.Args)
	}
	for label := range all.daemonSets[0].Spec.Selector.MatchLabels {
		if _, ok := all.pods[0].Labels[label]; ok {
			t.Errorf("the test pod has the DaemonSet's label %s", label)
		}
	}
}

// rights lists what the driver's ServiceAccount may do, as "group/resource: verb".
func rights(t *testing.T, all *objects) []string {
	t.Helper()
	if len(all.bindings) != 1 {
		t.Fatalf("%d bindings, want 1", len(all.bindings))
	}
	var rules []rbacv1.PolicyRule
	for _, role := range all.clusterRoles {
		if role.Name == all.bindings[0].RoleRef.Name {
			rules = append(rules, role.Rules...)
		}
	}
	var list []string
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					list = append(list, group+"/"+resource+": "+verb)
				}
			}
		}
	}
	slices.Sort(list)
	return list
}

const group = "secrets-store.csi.x-k8s.io/"

// always is everything that the driver may do if no option is enabled.
var always = []string{
	"/events: create", "/events: update",
	group + "secretproviderclasses: get", group + "secretproviderclasses: list", group + "secretproviderclasses: watch",
	group + "secretproviderclasspodstatuses: create", group + "secretproviderclasspodstatuses: delete",
	group + "secretproviderclasspodstatuses: get", group + "secretproviderclasspodstatuses: list", group + "secretproviderclasspodstatuses: update",
}

func TestRights(t *testing.T) {
	tests := []struct {
		set  string
		more []string
	}{
		{"", nil},
		{"startupTaint.remove=true", []string{"/nodes: get", "/nodes: patch"}},
		{"providerPlugins.enabled=true", nil},
	}
	for _, tt := range tests {
		want := slices.Sorted(slices.Values(slices.Concat(always, tt.more)))
		if got := rights(t, decode(t, render(t, newest, "--set", tt.set))); !slices.Equal(got, want) {
			t.Errorf("%s: rights\n%q, want\n%q", tt.set, got, want)
		}
	}
}

// TestUninstallCheck: the check lists statuses and can do nothing else, its pod has no rights on
// the node, and nothing of it remains.
func TestUninstallCheck(t *testing.T) {
	for _, name := range []string{"default", "everything"} {
		all := decode(t, renderSet(t, name))
		if got := rights(t, all.hooks); !slices.Equal(got, []string{group + "secretproviderclasspodstatuses: list"}) {
			t.Errorf("%s: rights %q", name, got)
		}
		job := all.hooks.jobs[0]
		pod := job.Spec.Template.Spec
		if got := all.hooks.bindings[0].Subjects[0].Name; pod.ServiceAccountName != got || all.hooks.accounts[0].Name != got {
			t.Errorf("%s: the Job runs as %s, bound is %s", name, pod.ServiceAccountName, got)
		}
		if c := pod.Containers[0]; c.Image != all.daemonSets[0].Spec.Template.Spec.Containers[0].Image || !slices.Equal(c.Args, []string{"mounted", "--driver-name=" + all.drivers[0].Name}) ||
			!*c.SecurityContext.RunAsNonRoot || len(pod.Volumes) > 0 {
			t.Errorf("%s: the Job's pod is %+v", name, pod)
		}
		if job.Spec.Template.Labels["app.kubernetes.io/name"] != "" {
			t.Errorf("%s: the DaemonSet's selector finds the Job's pod: %v", name, job.Spec.Template.Labels)
		}
		for _, a := range []map[string]string{job.Annotations, all.hooks.accounts[0].Annotations, all.hooks.clusterRoles[0].Annotations, all.hooks.bindings[0].Annotations} {
			if a["helm.sh/hook-delete-policy"] != "before-hook-creation,hook-succeeded,hook-failed" {
				t.Errorf("%s: an object stays behind: %v", name, a)
			}
		}
	}
}

func TestBindingNamesTheAccount(t *testing.T) {
	for _, name := range []string{"default", "everything"} {
		all := decode(t, renderSet(t, name))
		account := all.accounts[0]
		subject := all.bindings[0].Subjects[0]
		if subject.Name != account.Name || subject.Namespace != account.Namespace {
			t.Errorf("%s: bound %s/%s, the account is %s/%s", name, subject.Namespace, subject.Name, account.Namespace, account.Name)
		}
		if got := all.daemonSets[0].Spec.Template.Spec.ServiceAccountName; got != account.Name {
			t.Errorf("%s: the pods run as %s, the account is %s", name, got, account.Name)
		}
	}
}

// TestAggregatedRoles: users who may view see everything and change nothing; only the driver writes
// pod statuses.
func TestAggregatedRoles(t *testing.T) {
	reading := []string{"get", "list", "watch"}
	for _, role := range decode(t, renderSet(t, "default")).clusterRoles {
		view := role.Labels["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
		edit := role.Labels["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
		for _, rule := range role.Rules {
			for _, verb := range rule.Verbs {
				if view && !slices.Contains(reading, verb) {
					t.Errorf("%s lets viewers %s %v", role.Name, verb, rule.Resources)
				}
				if edit && !slices.Contains(reading, verb) && slices.Contains(rule.Resources, "secretproviderclasspodstatuses") {
					t.Errorf("%s lets editors %s pod statuses", role.Name, verb)
				}
			}
		}
	}
}
