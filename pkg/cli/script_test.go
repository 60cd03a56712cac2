package cli_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/tools/txtar"

	"github.com/mayfly-csi/mayfly/pkg/cli"
	"github.com/mayfly-csi/mayfly/pkg/cli/clitest"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var update = flag.Bool("update", false, "write the golden files")

func run(args []string, in *os.File) int {
	return cli.Run(args, output.Streams{In: in, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Version: "test", Now: recordedNow})
}

// recordedNow is the clock for the recorded clusters.
func recordedNow() time.Time { return time.Date(2026, 11, 28, 10, 0, 0, 0, time.UTC) }

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kubectl-mayfly": func() { os.Exit(run(os.Args[1:], os.Stdin)) }})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", UpdateScripts: *update, RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			dir, err := filepath.Abs("testdata/clusters")
			env.Setenv("CLUSTERS", dir)
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exit": exit, "cluster": cluster, "store": store},
	})
}

// cluster starts a recorded API server with the objects of files, and sets KUBECONFIG. $CLUSTERS has
// clusters that scripts share; crds stands for the CRDs of the chart.
func cluster(ts *testscript.TestScript, _ bool, args []string) {
	var text strings.Builder
	for _, name := range args {
		if name != "crds" {
			text.WriteString(ts.ReadFile(name) + "\n---\n")
			continue
		}
		names, err := filepath.Glob("../../charts/mayfly/files/crds/*.yaml")
		ts.Check(err)
		for _, name := range names {
			data, err := os.ReadFile(name)
			ts.Check(err)
			text.WriteString("\n" + string(data) + "\n---\n")
		}
	}
	api, err := clitest.Start(text.String())
	ts.Check(err)
	ts.Defer(api.Close)
	config, err := api.Kubeconfig(ts.MkAbs("."))
	ts.Check(err)
	ts.Setenv("KUBECONFIG", config)
}

// store starts a recorded store, and sets the environment variables of vault and akeyless for it.
func store(ts *testscript.TestScript, _ bool, args []string) {
	api, err := clitest.Start(ts.ReadFile(args[0]))
	ts.Check(err)
	ts.Defer(api.Close)
	for _, name := range []string{"VAULT_ADDR", "AKEYLESS_GATEWAY_URL"} {
		ts.Setenv(name, api.URL())
	}
	ts.Setenv("VAULT_TOKEN", "hvs.person")
	ts.Setenv("AKEYLESS_TOKEN", "t-person")
}

// exit checks the exit code of a command line.
func exit(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	command := append([]string{}, args[1:]...)
	for i := range command {
		if strings.HasSuffix(command[i], ".yaml") {
			command[i] = ts.MkAbs(command[i])
		}
	}
	var out, errs bytes.Buffer
	got := cli.Run(command, output.Streams{In: strings.NewReader(""), Out: &out, Err: &errs, Getenv: func(string) string { return "" }, Version: "test"})
	if got != want {
		ts.Fatalf("exit code %d, want %d\n%s%s", got, want, &out, &errs)
	}
}

// TestEveryCodeHasAScript: each code is in the wanted output of its script.
func TestEveryCodeHasAScript(t *testing.T) {
	for _, rule := range finding.Rules() {
		names, err := filepath.Glob("testdata/" + strings.ToLower(rule.Code) + "_*.txtar")
		if err != nil || len(names) != 1 {
			t.Fatalf("%s: %v, %v", rule.Code, names, err)
		}
		text := testkit.Value(os.ReadFile(names[0]))(t)
		if _, want, _ := strings.Cut(string(text), "-- want --\n"); !strings.Contains(want, " "+rule.Code+" ") {
			t.Errorf("%s does not show %s", names[0], rule.Code)
		}
	}
}

// TestOwnManifests: the project's own manifests have no findings, also
// together.
func TestOwnManifests(t *testing.T) {
	var out bytes.Buffer
	args := []string{"lint", "--fail-on", "warning", "../../deploy", "../../examples"}
	if code := cli.Run(args, output.Streams{Out: &out, Err: &out, Getenv: os.Getenv}); code != 0 {
		t.Errorf("exit code %d\n%s", code, &out)
	}
}

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
		testkit.Equal(t, "findings in SARIF", checkSARIF(t, []byte(out)), findings)
	})
}
