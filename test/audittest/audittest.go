// Package audittest checks every line of an audit trail that a test writes against
// docs/audit.schema.json, and the chain of its lines.
package audittest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// Check checks the lines of an audit trail in logs, the oldest first, and returns their number.
func Check(t testing.TB, logs ...[]byte) int {
	t.Helper()
	CheckLines(t, logs...)
	v := verified(t, logs...)
	for _, b := range v.Breaks {
		t.Errorf("the chain of the audit trail does not hold: %s: %s", b.Place, b.Why)
	}
	if v.Without > 0 {
		t.Errorf("%d lines of the audit trail have no place in the chain", v.Without)
	}
	return v.Lines
}

// Chains are those of an audit trail's lines: one if each restart of the driver has gone on with it.
func Chains(t testing.TB, log []byte) []*chain.Chain {
	t.Helper()
	return verified(t, log).Chains()
}

func verified(t testing.TB, logs ...[]byte) *chain.Verifier {
	t.Helper()
	v := &chain.Verifier{}
	for i, log := range logs {
		testkit.Must(t, v.Read(fmt.Sprintf("log %d", i), bytes.NewReader(Whole(log))))
	}
	return v
}

// CheckLines checks each line by itself.
func CheckLines(t testing.TB, logs ...[]byte) {
	t.Helper()
	s, err := schema()
	if err != nil {
		t.Error(err)
		return
	}
	for _, log := range logs {
		err := chain.Lines(bytes.NewReader(Whole(log)), func(number int, text []byte) {
			if !bytes.HasPrefix(text, []byte(`{"apiVersion":"`+chain.Version)) {
				return
			}
			if err := validate(s, text); err != nil {
				t.Errorf("line %d of the audit trail is not as docs/audit.schema.json says: %v\n%s", number, err, text)
			}
		})
		testkit.Check(t, err)
	}
}

// Whole returns the lines of a log without one that is still being written.
func Whole(log []byte) []byte { return log[:bytes.LastIndexByte(log, '\n')+1] }

// Valid says what is wrong with a line; nil if it is valid.
func Valid(line []byte) error {
	s, err := schema()
	if err != nil {
		return err
	}
	return validate(s, line)
}

func validate(s *jsonschema.Schema, text []byte) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return s.Validate(value)
}

var schema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	return jsonschema.NewCompiler().Compile(Path())
})

// Path is the path of the schema.
func Path() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "../../docs/audit.schema.json")
}

// command is a command of a page: indented by four spaces, and all in one line.
var command = regexp.MustCompile("(?m)^    (jq .*)$")

// Recipes gives the commands of a page in docs/ between two comments of it, such
// as "recipes" for "<!-- recipes: ... -->" and "<!-- end of recipes -->".
func Recipes(t testing.TB, page, name string) []string {
	t.Helper()
	text := testkit.Value(os.ReadFile(filepath.Join(filepath.Dir(Path()), page)))(t)
	_, part, begun := strings.Cut(string(text), "<!-- "+name+":")
	part, _, ended := strings.Cut(part, "<!-- end of "+name+" -->")
	if !begun || !ended {
		t.Fatalf("docs/%s has no %s", page, name)
	}
	var all []string
	for _, m := range command.FindAllStringSubmatch(part, -1) {
		all = append(all, m[1])
	}
	return all
}

// RunRecipe runs a command beside the files that it reads, by their names, and
// gives its lines.
func RunRecipe(t testing.TB, recipe string, files map[string]string) []string {
	t.Helper()
	dir := t.TempDir()
	for name, path := range files {
		testkit.Must(t, os.Symlink(path, filepath.Join(dir, name)))
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", recipe)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Error(fmt.Errorf("%s: %w: %s", recipe, err, out))
	}
	return strings.FieldsFunc(string(out), func(c rune) bool { return c == '\n' })
}
