package access_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/ast"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/access"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

func plan(t *testing.T, paths ...string) ([]access.Grant, *finding.Report) {
	t.Helper()
	need := vault.Need{Login: vault.Login{Address: "https://vault.example", Mount: "kubernetes", Role: "web", Audience: "vault"}}
	for _, p := range paths {
		need.Rights = append(need.Rights, vault.Right{Path: p, Capability: "read", Purpose: vault.Serve})
	}
	r := &finding.Report{}
	return access.Plan([]access.Asked{{Class: class.Ref{Namespace: "shop", Name: "web"}, Need: need, Accounts: []access.Account{{Namespace: "shop", Name: "web"}}}}, access.Options{}, r), r
}

// pathsOf are the paths of a policy as HCL reads them.
func pathsOf(t *testing.T, text string) []string {
	t.Helper()
	root, err := hcl.Parse(text)
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	var paths []string
	for _, item := range root.Node.(*ast.ObjectList).Filter("path").Items {
		paths = append(paths, item.Keys[0].Token.Value().(string))
	}
	return paths
}

// TestQuoting: each path can be read back from the policy unchanged.
func TestQuoting(t *testing.T) {
	for _, path := range []string{
		"secret/data/web", `secret/data/a"b`, `secret/data/back\slash`, `secret/data/${aws.x}`, `secret/data/$${x}`, "secret/data/%{if}",
		"secret/data/ä ö#'", `secret/data/"] } path "x" { capabilities = ["sudo"]`, "secret/data/a{b}c", "secret/data/$", "secret/data/EOF",
	} {
		grants, r := plan(t, path)
		if got := pathsOf(t, grants[0].Policy.HCL()); len(got) != 1 || got[0] != path || len(r.Findings) > 0 {
			t.Errorf("%q comes back as %q, %+v", path, got, r.Findings)
		}
	}
}

func FuzzQuoting(f *testing.F) {
	f.Add("secret/data/web")
	f.Add(`a/${"}`)
	f.Fuzz(func(t *testing.T, path string) {
		// As a class can have it: valid UTF-8 without control characters.
		if path == "" || strings.ContainsFunc(path, func(r rune) bool {
			return r < ' ' || r == 0x7f || r == '\ufffd' || r >= 0x80 && r < 0xa0 || r == '\u2028' || r == '\u2029' || r == 0xfeff
		}) {
			t.Skip()
		}
		grants, _ := plan(t, path)
		text := grants[0].Policy.HCL()
		testkit.Equal(t, "what comes back of "+access.Pattern(path), pathsOf(t, text), []string{access.Pattern(path)})
	})
}

// TestWildcardPath: a path with a wildcard character of policies gets a finding.
func TestWildcardPath(t *testing.T) {
	for path, want := range map[string]string{
		"secret/data/+/x": "secret/data/+/x", "secret/data/x*": "secret/data/x*", "secret/data/{{x}}/y": "secret/data/+/y",
		"secret/data/a+*/y": "secret/data/+/y", "secret/x}}": "secret/+",
	} {
		grants, r := plan(t, path)
		if got := grants[0].Policy.Rules[0].Path; got != want || len(r.Findings) != 1 || r.Findings[0].Code != finding.CodePolicyInexact {
			t.Errorf("%q: %q, %+v", path, got, r.Findings)
		}
	}
}

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
		granted := testkit.Value(access.ParsePolicy(name, policies[name]))(t)
		rules = append(rules, granted...)
	}
	root := v.Client()
	made := testkit.Value(root.Logical().WriteWithContext(t.Context(), "auth/token/create", map[string]any{"policies": []string{"a", "b"}, "no_default_policy": true}))(t)
	for _, path := range []string{
		"secret/data/web", "secret/data/web2", "secret/data/web/x", "secret/data/one/x", "secret/data/two/x", "secret/data/one/y", "secret/other/one/x",
		"secret/metadata/", "secret/metadata", "secret/metadata/no", "secret/metadata/x", "secret/metadata/no/", "old/x", "leading/x", "bounds/x",
		"q/deep/y", "q/deep/deeper", "q/z/deeper", "secret/deep/deeper", "plain+/x", "plainer/x", "end/x", "end/x/y", "none", "secret/data/web/deep/", "secret/data/web/deep",
	} {
		answer := testkit.Value(root.Logical().WriteWithContext(t.Context(), "sys/capabilities", map[string]any{"token": made.Auth.ClientToken, "paths": []string{path}}))(t)
		var want []string
		for _, c := range answer.Data["capabilities"].([]any) {
			want = append(want, c.(string))
		}
		slices.Sort(want)
		got, _ := access.Granted(rules, path, strings.HasSuffix(path, "/"))
		if len(got) == 0 {
			got = []string{"deny"} // Vault's word for none
		}
		testkit.Equal(t, path+": capabilities, and Vault's", got, want)
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
