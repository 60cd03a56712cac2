package rules

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

var (
	// ownName is an annotation, a label or the like in Mayfly's or the Secrets
	// Store CSI driver's domain.
	ownName = regexp.MustCompile(`^([a-z]+\.)*(mayfly\.dev|secrets-store\.csi\.k8s\.io)/[a-z0-9-]+$`)
	// ofTheRow is the name that a row of a table begins with.
	ofTheRow = regexp.MustCompile("^\\| `([^`]+)` \\|")
)

// TestReferenceIsComplete: docs/reference.md lists every reason of an Event and
// every annotation, label and taint that the code has, and no others.
func TestReferenceIsComplete(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docs/reference.md"))
	testkit.Must(t, err)
	var events, names []string
	section := ""
	for line := range strings.Lines(string(text)) {
		if match := heading.FindStringSubmatch(strings.TrimSpace(line)); match != nil {
			section = match[1]
		}
		match := ofTheRow.FindStringSubmatch(line)
		switch {
		case match == nil:
		case section == "Events":
			events = append(events, match[1])
		case strings.Contains(match[1], "/"):
			names = append(names, match[1])
		}
	}
	c := code(t)
	if len(c.events) < 6 || len(c.names) < 9 {
		t.Fatalf("the test does not see the code's Events %q and names %q", c.events, c.names)
	}
	compare(t, "reasons of Events", events, c.events)
	compare(t, "annotations, labels and taints", names, c.names)
}

func compare(t *testing.T, what string, page, code []string) {
	t.Helper()
	slices.Sort(page)
	slices.Sort(code)
	if !slices.Equal(page, code) {
		t.Errorf("%s:\ndocs/reference.md has %q\nthe code has           %q", what, page, code)
	}
}

type codeNames struct{ events, names []string }

// code reads the constants of pkg/ and the names in the chart's default values.
func code(t *testing.T) codeNames {
	t.Helper()
	names := map[string]bool{"node.mayfly.dev/not-ready": false}
	var found codeNames
	err := filepath.WalkDir(filepath.Join(root, "pkg"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GenDecl:
				if n.Tok == token.CONST && strings.Contains(n.Doc.Text(), "reasons of the Events") {
					found.events = append(found.events, values(n)...)
				}
			case *ast.BasicLit:
				if value, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil && ownName.MatchString(value) {
					names[value] = true
				}
			}
			return true
		})
		return nil
	})
	testkit.Must(t, err)
	chart, err := os.ReadFile(filepath.Join(root, "charts/mayfly/values.yaml"))
	testkit.Must(t, err)
	if !strings.Contains(string(chart), "node.mayfly.dev/not-ready") {
		t.Error("the chart's startupTaint.key is another one")
	}
	found.names = slices.Collect(maps.Keys(names))
	return found
}

// values are the texts of a block of constants.
func values(decl *ast.GenDecl) []string {
	var all []string
	for _, spec := range decl.Specs {
		for _, value := range spec.(*ast.ValueSpec).Values {
			if literal, ok := value.(*ast.BasicLit); ok {
				if text, err := strconv.Unquote(literal.Value); err == nil {
					all = append(all, text)
				}
			}
		}
	}
	return all
}
