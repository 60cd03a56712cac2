package audittest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// command is a command of a page: indented by four spaces, and all in one line.
var command = regexp.MustCompile("(?m)^    (jq .*)$")

// Recipes gives the commands of a page in docs/ between two comments of it, such
// as "recipes" for "<!-- recipes: ... -->" and "<!-- end of recipes -->".
func Recipes(t testing.TB, page, name string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(Path()), page))
	testkit.Must(t, err)
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
