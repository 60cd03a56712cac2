package cli_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/tools/txtar"

	"github.com/mayfly-csi/mayfly/pkg/cli"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// FuzzLint: for any input, lint ends, every printer works, and no text of the input ends a line or
// reaches the terminal as an escape.
func FuzzLint(f *testing.F) {
	names, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(names) == 0 {
		f.Fatal(names, err)
	}
	for _, name := range names {
		data := testkit.Value(os.ReadFile(name))(f)
		for _, file := range txtar.Parse(data).Files {
			if strings.Contains(file.Name, ".y") {
				f.Add(string(file.Data))
			}
		}
	}
	f.Add("a: &a {kind: *a, <<: *a}\napiVersion: v1\nkind: Pod\n<<: {spec: &s {volumes: [*s], csi: *s}}\n")
	f.Add(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","spec":{"volumes":[null,1,{"csi":{"driver":"secrets-store.csi.k8s.io"}}],"containers":{}}}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		lint := func(args ...string) (string, int) {
			var out, errs bytes.Buffer
			code := cli.Run(append([]string{"lint", "-"}, args...), output.Streams{In: strings.NewReader(text), Out: &out, Err: &errs, Getenv: os.Getenv})
			if code == 2 || errs.Len() > 0 {
				t.Fatalf("%d: %s", code, &errs)
			}
			return out.String(), code
		}
		shown, code := lint()
		for _, r := range shown {
			if r != '\n' && !unicode.IsPrint(r) {
				t.Errorf("%q in %q", r, shown)
			}
		}
		lines := strings.Split(strings.TrimSuffix(shown, "\n"), "\n")
		findings := (len(lines) - 1) / 2
		for i, line := range lines[:len(lines)-1] {
			if i%2 == 1 != strings.HasPrefix(line, "  → ") || i%2 == 0 && !strings.Contains(line, " MF0") {
				t.Errorf("line %d is %q", i+1, line)
			}
		}
		var report struct{ Findings []finding.Finding }
		out, same := lint("-o", "json")
		if err := json.Unmarshal([]byte(out), &report); err != nil || len(report.Findings) != findings || same != code {
			t.Errorf("JSON: %v, %d findings of %d, exit code %d", err, len(report.Findings), findings, same)
		}
		out, _ = lint("-o", "sarif")
		if n := checkSARIF(t, []byte(out)); n != findings {
			t.Errorf("SARIF: %d findings of %d", n, findings)
		}
	})
}
