package access_test

import (
	"strings"
	"testing"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/ast"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/cli/access"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
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
		if got := pathsOf(t, text); len(got) != 1 || got[0] != access.Pattern(path) {
			t.Errorf("%q comes back as %q in\n%s", access.Pattern(path), got, text)
		}
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
