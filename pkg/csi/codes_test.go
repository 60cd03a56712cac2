package csi

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// Every reason that exists must be in the table.
func TestEveryReasonHasACode(t *testing.T) {
	file := testkit.Value(parser.ParseFile(token.NewFileSet(), "../fault/fault.go", nil, 0))(t)
	found := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != "Reason" {
			return true
		}
		text := testkit.Value(strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value))(t)
		found++
		if _, ok := reasonCodes[fault.Reason(text)]; !ok {
			t.Errorf("reason %s has no code", text)
		}
		return true
	})
	testkit.Equal(t, "reasons in the code, and in the table", found, len(reasonCodes))
}

func TestWhatTimeMendsIsNotFinal(t *testing.T) {
	for reason, code := range reasonCodes {
		if reason.Outage() && final(code) {
			t.Errorf("%s is an outage, but kubelet takes %s for final", reason, code)
		}
		kept := fmt.Errorf("republish: %w", &volume.KeptError{Err: fault.New(reason, "x")})
		if c := codeOf(kept); final(c) || c == codes.OK {
			t.Errorf("a live volume's failure %s became %s", reason, c)
		}
	}
}

// docs/operating.md has the same table.
func TestDocumentedCodes(t *testing.T) {
	doc := testkit.Value(os.ReadFile("../../docs/operating.md"))(t)
	for reason, code := range reasonCodes {
		testkit.Has(t, string(doc), fmt.Sprintf("\n| `%s` | %s | ", reason, code))
	}
}
