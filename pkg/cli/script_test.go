package cli_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

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
