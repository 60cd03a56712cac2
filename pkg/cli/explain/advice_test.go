package explain

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestEveryReasonHasAdvice: a new reason of package fault needs an entry. The last entry is for
// Internal.
func TestEveryReasonHasAdvice(t *testing.T) {
	file := testkit.Value(parser.ParseFile(token.NewFileSet(), "../../fault/fault.go", nil, 0))(t)
	n := 0
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); !ok || kind.Name != "Reason" {
			return true
		}
		name := testkit.Value(strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value))(t)
		n++
		reason := fault.Reason(name)
		row := adviceFor(false, reason, "", false)
		if reason != fault.Internal && !slices.Contains(row.reasons, reason) {
			t.Errorf("no row is for %s alone: it has %s", reason, row.code)
		}
		return true
	})
	if n < 20 {
		t.Errorf("the test sees %d reasons", n)
	}
}

func TestShell(t *testing.T) {
	for text, want := range map[string]string{
		"web": "web", "secret/data/web": "secret/data/web", "": "''", "a b": "'a b'", "$(id)": "'$(id)'", "it's": `'it'\''s'`, "a\nb": "'a\nb'",
	} {
		if got := shell(text); got != want {
			t.Errorf("shell(%q) is %s, want %s", text, got, want)
		}
	}
}
