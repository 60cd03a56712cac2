package compat

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

var update = flag.Bool("update", false, "write docs/compatibility.md")

const page = "../../docs/compatibility.md"

func TestPage(t *testing.T) {
	cases, err := Load("cases")
	if err != nil || len(cases) == 0 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	secrets, err := LoadSecrets("secrets")
	if err != nil || len(secrets) == 0 {
		t.Fatalf("%d cases of Secrets, %v", len(secrets), err)
	}
	want := Table(cases, secrets)
	if *update {
		testkit.Must(t, os.WriteFile(page, []byte(want), 0o644))
	}
	if got, err := os.ReadFile(page); err != nil || string(got) != want {
		t.Errorf("docs/compatibility.md differs from the cases (%v): run go test ./test/compat -update", err)
	}
}

// TestNamedTests: the tests that cases name exist.
func TestNamedTests(t *testing.T) {
	cases := testkit.Value(LoadSecrets("secrets"))(t)
	for _, c := range cases {
		if c.Test.Name == "" {
			continue
		}
		files, err := filepath.Glob("../../" + c.Test.Package + "/*_test.go")
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no tests in %q (%v)", c.Name, c.Test.Package, err)
		}
		if !slices.ContainsFunc(files, func(file string) bool {
			text, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(text), strconv.Quote(c.Test.Name))
		}) {
			t.Errorf("%s: %s has no case %q", c.Name, c.Test.Package, c.Test.Name)
		}
	}
}

func TestParse(t *testing.T) {
	const good = "title: a\nsource: b 1\nresult: c\nclass: |\n  name: $CASE\n"
	c, err := parse("x", []byte(good))
	if err != nil || c.Class != "name: x\n" || c.Name != "x" {
		t.Errorf("%+v, %v", c, err)
	}
	for name, text := range map[string]string{
		"unknown field": good + "wants: {}\n",
		"no source":     strings.Replace(good, "source: b 1\n", "", 1),
		"two lines":     strings.Replace(good, "title: a", "title: \"a\\nb\"", 1),
		"no class":      "title: a\nsource: b 1\nresult: c\n",
	} {
		if _, err := parse("x", []byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	const test = "title: a\nsource: b 1\nresult: c\ntest: {package: p, name: n}\n"
	if c, err := parseSecret("x", []byte(test)); err != nil || c.Test.Name != "n" {
		t.Errorf("%+v, %v", c, err)
	}
	for name, text := range map[string]string{
		"neither class nor test":   "title: a\nsource: b 1\nresult: c\n",
		"neither want nor refused": good,
		"want and refused":         good + "want: {s: {}}\nrefused: [x]\n",
		"no source":                strings.Replace(test, "source: b 1\n", "", 1),
	} {
		if _, err := parseSecret("x", []byte(text)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
