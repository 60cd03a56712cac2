package pages

import (
	"reflect"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestParse(t *testing.T) {
	const text = "# Title\n" +
		"    kubectl get pods \\\n      -A\n\n    second\n\ntext\n    goes on\n\n" +
		"## Values of `x`\n\n" +
		"<!-- not run: a reason -->\n\n```yaml\na: 1\n\nb: 2\n```\n" +
		"1. item\n   ~~~bash\n   echo '```'\n   ~~~\n\n" +
		"<!-- not run: a picture -->\n    --->\n" +
		"<!-- another comment -->\n```json\n{}\n```"
	want := []Block{
		{Page: "p.md", Line: 2, Section: "Title", Kind: Shell, Text: "kubectl get pods \\\n  -A\n\nsecond\n"},
		{Page: "p.md", Line: 15, Section: "Values of `x`", Kind: YAML, Text: "a: 1\n\nb: 2\n", NotRun: "a reason"},
		{Page: "p.md", Line: 21, Section: "Values of `x`", Kind: Shell, Text: "echo '```'\n"},
		{Page: "p.md", Line: 25, Section: "Values of `x`", Kind: Shell, Text: "--->\n", NotRun: "a picture"},
		{Page: "p.md", Line: 28, Section: "Values of `x`", Kind: Other, Text: "{}\n"},
	}
	got, err := Parse("p.md", text)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\ngot  %+v\nwant %+v", err, got, want)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"<!-- not run: why -->\ntext\n":                       "p.md:2: the mark",
		"<!-- not run: why -->\n<!-- not run: b -->\n    x\n": "p.md:2: the mark",
		"text\n\n<!-- not run: why -->\n":                     "has no block after it",
		"<!-- not run -->\n\n    x\n":                         "p.md:1: a mark is",
		"<!-- not run: -->\n\n    x\n":                        "p.md:1: a mark is",
		"<!-- Not-run: x -->\n\n    x\n":                      "p.md:1: a mark is",
		"a\n```\nx\n":                                         "p.md:2: the block does not end",
	} {
		if blocks, err := Parse("p.md", text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v, want %q", text, blocks, err, want)
		}
	}
}

func TestSession(t *testing.T) {
	work := t.TempDir()
	s := testkit.Value(NewSession(t.TempDir(), work, []string{"PATH=/usr/bin:/bin"}))(t)
	for _, tt := range []struct {
		text, want string
		fails      bool
	}{
		{text: "A='b \"c\"'\nmkdir -p d && cd d\n"},
		{text: "echo \"$A\"; echo \"${PWD##*/}\"; cat - <<EOF\n$A\nEOF\n", want: "b \"c\"\nd\nb \"c\"\n"},
		{text: "echo one; false; echo two\n", want: "one\n", fails: true},
		{text: "false | true\n", fails: true},
		{text: "A=lost; exit 3\n", fails: true},
		{text: "if true; then\n", fails: true},
		{text: "echo $A >&2\n", want: "b \"c\"\n"},
	} {
		got, err := s.Run(t.Context(), tt.text)
		if (err != nil) != tt.fails || tt.want != "" && got != tt.want {
			t.Errorf("%q: %v, printed %q, want %q", tt.text, err, got, tt.want)
		}
	}
}
