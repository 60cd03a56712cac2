package chart

import (
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
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
