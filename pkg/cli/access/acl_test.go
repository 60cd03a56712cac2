package access_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/cli/access"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// TestGranted compares the capabilities that this package computes with a real Vault's.
func TestGranted(t *testing.T) {
	v := vaulttest.New(t, vaulttest.Options{})
	policies := map[string]string{
		"a": `
path "secret/data/web" { capabilities = ["read"] }
path "secret/data/web*" { capabilities = ["update"] }
path "secret/data/+/x" { capabilities = ["list"] }
path "secret/+/one/x" { capabilities = ["read", "sudo"] }
path "secret/+/one/*" { capabilities = ["create"] }
path "secret/data/one/*" { capabilities = ["patch"] }
path "secret/metadata/" { capabilities = ["list"] }
path "secret/metadata/no" { capabilities = ["deny"] }
path "secret/metadata/*" { capabilities = ["read"] }
path "old/*" { policy = "write" }
path "/leading/x" { capabilities = ["read"] }
path "bounds/x" {
  capabilities = ["update"]
  allowed_parameters = { "common_name" = ["a"] }
}
path "+/deep/*" { capabilities = ["read"] }
path "+/+/deeper" { capabilities = ["update"] }
path "plain+/x" { capabilities = ["read"] }
path "end/+" { capabilities = ["read"] }
path "end/*" { capabilities = ["update"] }`,
		"b": `
path "secret/data/web" { capabilities = ["update"] }
path "secret/metadata/no" { capabilities = ["read"] }
path "secret/data/web/deep/" { capabilities = ["list"] }`,
	}
	var rules []access.PolicyRule
	for _, name := range []string{"a", "b"} {
		testkit.Must(t, v.Policy(t.Context(), name, policies[name]))
		granted, err := access.ParsePolicy(name, policies[name])
		testkit.Must(t, err)
		rules = append(rules, granted...)
	}
	root := v.Client()
	made, err := root.Logical().WriteWithContext(t.Context(), "auth/token/create", map[string]any{"policies": []string{"a", "b"}, "no_default_policy": true})
	testkit.Must(t, err)
	for _, path := range []string{
		"secret/data/web", "secret/data/web2", "secret/data/web/x", "secret/data/one/x", "secret/data/two/x", "secret/data/one/y", "secret/other/one/x",
		"secret/metadata/", "secret/metadata", "secret/metadata/no", "secret/metadata/x", "secret/metadata/no/", "old/x", "leading/x", "bounds/x",
		"q/deep/y", "q/deep/deeper", "q/z/deeper", "secret/deep/deeper", "plain+/x", "plainer/x", "end/x", "end/x/y", "none", "secret/data/web/deep/", "secret/data/web/deep",
	} {
		answer, err := root.Logical().WriteWithContext(t.Context(), "sys/capabilities", map[string]any{"token": made.Auth.ClientToken, "paths": []string{path}})
		testkit.Must(t, err)
		var want []string
		for _, c := range answer.Data["capabilities"].([]any) {
			want = append(want, c.(string))
		}
		slices.Sort(want)
		got, _ := access.Granted(rules, path, strings.HasSuffix(path, "/"))
		if len(got) == 0 {
			got = []string{"deny"} // Vault's word for none
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: capabilities %q, Vault has %q", path, got, want)
		}
	}
}

func TestTemplates(t *testing.T) {
	rules, err := access.ParsePolicy("t", `
path "secret/data/{{identity.entity.aliases.auth_kubernetes_1.metadata.service_account_namespace}}/{{identity.entity.aliases.auth_kubernetes_1.metadata.service_account_name}}" { capabilities = ["read"] }
path "secret/data/{{identity.entity.name}}" { capabilities = ["read"] }`)
	testkit.Must(t, err)
	filled, open := access.For(rules, access.Account{Namespace: "shop", Name: "web"})
	if len(filled) != 1 || filled[0].Path != "secret/data/shop/web" || len(open) != 1 {
		t.Errorf("%+v, %+v", filled, open)
	}
}

func TestBadPolicies(t *testing.T) {
	for _, text := range []string{"path", `path "a" { capabilities = `, `path "a" "b"`, "\x00", `path = 1`} {
		if rules, err := access.ParsePolicy("p", text); err == nil && len(rules) > 1 {
			t.Errorf("%q gives %+v", text, rules)
		}
	}
}
