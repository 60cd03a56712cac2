package pages

import (
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
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

// flagsOfOthers are the flags in the pages that are not mayfly-node's. Those of the benchmark have
// a page of their own, which is not checked.
var flagsOfOthers = map[string]string{
	"--set": "helm", "--values": "helm", "--take-ownership": "helm", "--kube-version": "helm", "--tail": "kubectl", "--help": "any program",
	"--only": "test/hostile", "--list": "test/hostile", "--answers": "test/hostile",
	"--register-with-taints": "kubelet", "--anonymous-auth": "kube-apiserver", "--audit-policy-file": "kube-apiserver", "--advertise-address": "kube-apiserver", "--enable-csi-integration": "Reloader", "--driver-writes-secrets": "the provider of AWS", "--force-sub-claims": "akeyless",
	"--reaches": "mayfly-node audit verify",
	"--live":    "kubectl mayfly", "--timeout": "kubectl mayfly",
	"--driver-namespace": "kubectl-mayfly", "--driver-name": "kubectl-mayfly",
}

var (
	flagInText   = regexp.MustCompile("(?:`|mayfly-node )(--[a-z][a-z0-9-]*)")
	flagInHelp   = regexp.MustCompile(`(?m)^ +(?:-[a-z], )?(--[a-z0-9-]+)`)
	metricInText = regexp.MustCompile(`\b(?:mayfly|node_publish|node_unpublish|rotation_reconcile)_[a-z_]*[a-z]\b`)
	metricInRow  = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|")
)

// texts are the pages by their path.
func texts(t *testing.T) map[string]string {
	t.Helper()
	files := testkit.Value(Files(root))(t)
	all := map[string]string{}
	for _, name := range append(files, "SECURITY.md") {
		text := testkit.Value(os.ReadFile(filepath.Join(root, name)))(t)
		all[name] = string(text)
	}
	return all
}

func flagsOf(t *testing.T, name string, commands ...string) map[string]bool {
	t.Helper()
	program := testkit.Value(toolcache.Program(t.Context(), os.Stderr, t.TempDir(), "./cmd/"+name))(t)
	known := map[string]bool{}
	for _, command := range append([]string{""}, commands...) {
		help := testkit.Value(exec.CommandContext(t.Context(), program, strings.Fields(command+" --help")...).Output())(t)
		for _, match := range flagInHelp.FindAllSubmatch(help, -1) {
			known[string(match[1])] = true
		}
	}
	return known
}

// kmsPage reports whether a page is about mayfly-kms.
func kmsPage(page string) bool {
	return strings.HasPrefix(filepath.Base(page), "kms") || strings.HasPrefix(page, "deploy/kms/")
}

// TestFlagsExist: a flag in a page is one of mayfly-node, or of mayfly-kms in its pages, of kubectl
// mayfly, whose page is generated from its help, or of another known program.
func TestFlagsExist(t *testing.T) {
	ofNode, ofKMS := flagsOf(t, "mayfly-node"), flagsOf(t, "mayfly-kms", "serve", "doctor", "scan", "migrate", "retire")
	pages, ofCLI := texts(t), map[string]bool{}
	for _, match := range flagInHelp.FindAllStringSubmatch(pages["docs/cli.md"], -1) {
		ofCLI[match[1]] = true
	}
	checked := 0
	for page, text := range pages {
		if filepath.Base(page) == "performance.md" {
			continue
		}
		program, known := "mayfly-node", ofNode
		if kmsPage(page) {
			program, known = "mayfly-kms", ofKMS
		}
		for _, match := range flagInText.FindAllStringSubmatch(text, -1) {
			checked++
			name := match[1]
			group := strings.HasSuffix(name, "-") // --vault-tls-*
			for flag := range known {
				group = group && !strings.HasPrefix(flag, name)
			}
			if group || !strings.HasSuffix(name, "-") && !known[name] && !ofCLI[name] && flagsOfOthers[name] == "" {
				t.Errorf("%s: %s has no flag %s; one of another program belongs into flagsOfOthers", page, program, name)
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d flags were found", checked)
	}
}

// TestMetricsExist: a metric in a page is in the table of docs/operating.md or of
// docs/kms-reference.md, which the tests of pkg/telemetry and pkg/kms/cli compare with the code.
func TestMetricsExist(t *testing.T) {
	pages := texts(t)
	known := map[string]bool{}
	for _, match := range metricInRow.FindAllStringSubmatch(pages["docs/operating.md"]+pages["docs/kms-reference.md"], -1) {
		known[match[1]] = true
	}
	checked := 0
	for page, text := range pages {
		for _, name := range metricInText.FindAllString(text, -1) {
			checked++
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				if base, ok := strings.CutSuffix(name, suffix); ok && known[base] {
					name = base
				}
			}
			if !known[name] {
				t.Errorf("%s: there is no metric %s", page, name)
			}
		}
	}
	if checked < 20 {
		t.Errorf("only %d metrics were found", checked)
	}
}
