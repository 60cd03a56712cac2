package akeyless

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// docs/akeyless.md lists the parameters, fields and arguments that exist, and
// no others.
func TestDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/akeyless.md")
	testkit.Must(t, err)
	section := func(title string) string {
		_, rest, found := strings.Cut(string(doc), "\n## "+title+"\n")
		if !found {
			t.Fatalf("there is no section %q", title)
		}
		text, _, _ := strings.Cut(rest, "\n## ")
		return text
	}
	for title, want := range map[string][]string{
		"Parameters":   parameterKeys(),
		"Access types": accessTypes(),
	} {
		compare(t, title, rows(section(title)), want)
	}
	kinds := []string{string(static), string(rotated), string(dynamic), string(certificate), string(pki)}
	compare(t, "Objects", rows(section("Objects")), append(objectFields(), kinds...))
	compare(t, "When a secret is looked at again", rows(section("When a secret is looked at again")), kinds)
	for _, k := range kinds {
		row := regexp.MustCompile("(?m)^\\| `" + k + "` \\|.*$").FindString(section("Objects"))
		for _, name := range argumentNames(kind(k)) {
			if !strings.Contains(plainName(row), "`"+plainName(name)+"`") {
				t.Errorf("the arguments of %s lack %s: %s", k, name, row)
			}
		}
	}
}

// rows are the names in the first column of tables.
func rows(text string) []string {
	var names []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z0-9_]+)` \\|").FindAllStringSubmatch(text, -1) {
		names = append(names, m[1])
	}
	return names
}

func compare(t *testing.T, title string, got, want []string) {
	t.Helper()
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		t.Errorf("section %q lists\n%v\nthe code has\n%v", title, got, want)
	}
}

// The class in docs/akeyless.md works.
func TestDocumentedClass(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/akeyless.md")
	testkit.Must(t, err)
	_, rest, _ := strings.Cut(string(doc), "```yaml\n")
	manifest, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("there is no class")
	}
	warnings, err := newProvider(t, Config{}).Validate(parsed(t, manifest))
	if err != nil || len(warnings) > 0 {
		t.Errorf("%v, warnings %q", err, warnings)
	}
}

func parsed(t *testing.T, manifest string) *class.Class {
	t.Helper()
	objects, _, err := class.ParseManifest([]byte(manifest))
	if err != nil || len(objects) != 1 {
		t.Fatalf("%d classes, %v", len(objects), err)
	}
	c, _, err := class.Parse(objects[0])
	testkit.Must(t, err)
	return c
}
