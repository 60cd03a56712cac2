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
		if !strings.Contains(text.String(), "'"+word+"'") {
			t.Errorf("the policy does not name %q:\n%s", word, text.String())
		}
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
