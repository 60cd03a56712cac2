package chart

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const parametersFile = "../../charts/mayfly/files/parameters.json"

// TestParametersAreThoseOfTheDriver: the chart's policy warns of parameters that the driver does
// not know, and of no others.
func TestParametersAreThoseOfTheDriver(t *testing.T) {
	known := map[string][]string{
		vault.NameVault: vault.Parameters(vault.NameVault), vault.NameOpenBao: vault.Parameters(vault.NameOpenBao), akeyless.Name: akeyless.Parameters(),
	}
	for provider, names := range known {
		known[provider] = append(class.OwnKeys(), names...)
		slices.Sort(known[provider])
	}
	want, err := json.MarshalIndent(known, "", "  ")
	testkit.Must(t, err)
	want = append(want, '\n')
	if *update {
		testkit.Must(t, os.WriteFile(parametersFile, want, 0o644))
	}
	if got, err := os.ReadFile(parametersFile); err != nil || string(got) != string(want) {
		t.Errorf("%s is not what the driver knows: go test ./test/chart -update (%v)", parametersFile, err)
	}
}

// TestClassWarnings: the policy warns and never refuses. The e2e checks the texts.
func TestClassWarnings(t *testing.T) {
	all := decode(t, render(t, newest))
	i := slices.IndexFunc(all.admission, func(p admissionv1.ValidatingAdmissionPolicy) bool { return strings.HasSuffix(p.Name, "class-warnings") })
	j := slices.IndexFunc(all.admitting, func(p admissionv1.ValidatingAdmissionPolicyBinding) bool {
		return strings.HasSuffix(p.Name, "class-warnings")
	})
	if i < 0 || j < 0 || *all.admission[i].Spec.FailurePolicy != admissionv1.Ignore ||
		!slices.Equal(all.admitting[j].Spec.ValidationActions, []admissionv1.ValidationAction{admissionv1.Warn}) || all.admitting[j].Spec.PolicyName != all.admission[i].Name {
		t.Fatalf("policies %+v, bindings %+v", all.admission, all.admitting)
	}
	testkit.Has(t, all.admission[i].Spec.Variables[1].Expression, "'roleName'", "'refreshInterval'", "'akeylessAccessID'", "'baoNamespace'")
}
