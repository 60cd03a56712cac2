package compat

import (
	"flag"
	"os"
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
	want := Table(cases)
	if *update {
		testkit.Must(t, os.WriteFile(page, []byte(want), 0o644))
	}
	if got, err := os.ReadFile(page); err != nil || string(got) != want {
		t.Errorf("docs/compatibility.md is not what the cases say (%v): go test ./test/compat -update", err)
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
	} {
		if _, err := parse("x", []byte(text)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
