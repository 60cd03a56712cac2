// Package migrate runs hack/migrate-check.sh on stored lists of clusters.
package migrate

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

const script = "../../hack/migrate-check.sh"

var update = flag.Bool("update", false, "write the golden files")

// lists are the files that the script reads, by the kind that is in each.
var lists = map[string]string{
	"SecretProviderClass": "secretproviderclasses.secrets-store.csi.x-k8s.io",
	"CSIDriver":           "csidrivers.storage.k8s.io",
	"Pod":                 "pods",
	"ReplicaSet":          "replicasets.apps",
	"Deployment":          "deployments.apps",
	"StatefulSet":         "statefulsets.apps",
	"DaemonSet":           "daemonsets.apps",
	"Job":                 "jobs.batch",
	"CronJob":             "cronjobs.batch",
	"Ingress":             "ingresses.networking.k8s.io",
	"ServiceAccount":      "serviceaccounts",
}

// store writes a cluster's objects as kubectl writes lists.
func store(t *testing.T, path string) string {
	t.Helper()
	file := testkit.Value(os.Open(path))(t)
	defer file.Close()
	items := map[string][]any{}
	for decoder := yaml.NewDecoder(file); ; {
		var object map[string]any
		err := decoder.Decode(&object)
		if errors.Is(err, io.EOF) {
			break
		}
		testkit.Must(t, err)
		kind, _ := object["kind"].(string)
		if lists[kind] == "" {
			t.Fatalf("%s: kind %q is in no list of the script", path, kind)
		}
		items[kind] = append(items[kind], object)
	}
	dir := t.TempDir()
	for kind, name := range lists {
		all := items[kind]
		if all == nil {
			all = []any{}
		}
		data := testkit.Value(json.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": all}))(t)
		testkit.Must(t, os.WriteFile(filepath.Join(dir, name+".json"), data, 0o600))
	}
	return dir
}

// check runs the script, and returns its output and its exit code.
func check(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	if _, err := exec.LookPath("jq"); err != nil {
		t.Fatal("jq is missing: apt-get install jq")
	}
	var out, failure bytes.Buffer
	cmd := exec.CommandContext(t.Context(), script, args...)
	cmd.Stdout, cmd.Stderr = &out, &failure
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), failure.String(), cmd.ProcessState.ExitCode()
}

func TestGolden(t *testing.T) {
	for name, code := range map[string]int{"defaults": 1, "values": 1, "clean": 0} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join("testdata", name)
			args := []string{"--from", store(t, filepath.Join(dir, "cluster.yaml"))}
			if _, err := os.Stat(filepath.Join(dir, "values.json")); err == nil {
				args = append(args, "--values", filepath.Join(dir, "values.json"))
			} else if !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			got, failure, exit := check(t, args...)
			if exit != code || failure != "" {
				t.Errorf("exit code %d, want %d; standard error: %s", exit, code, failure)
			}
			golden := filepath.Join(dir, "want.txt")
			if *update {
				testkit.Must(t, os.WriteFile(golden, []byte(got), 0o644))
			}
			want := testkit.Value(os.ReadFile(golden))(t)
			if got != string(want) {
				t.Errorf("%s differs; \"go test ./test/migrate -update\" writes it. Got:\n%s", golden, got)
			}
		})
	}
}

// TestRefusals: a check that could not be made never looks like one without findings.
func TestRefusals(t *testing.T) {
	whole := store(t, "testdata/clean/cluster.yaml")
	broken := store(t, "testdata/clean/cluster.yaml")
	testkit.Must(t, os.WriteFile(filepath.Join(broken, "pods.json"), []byte(`{"kind": "Status"}`), 0o600))
	partial := store(t, "testdata/clean/cluster.yaml")
	testkit.Must(t, os.Remove(filepath.Join(partial, "pods.json")))
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"a list is missing":      {[]string{"--from", partial}, "kubectl get pods --all-namespaces"},
		"a list is none":         {[]string{"--from", broken}, "pods.json is not a list"},
		"values are YAML":        {[]string{"--from", whole, "--values", "testdata/clean/cluster.yaml"}, "is not one JSON object"},
		"values are missing":     {[]string{"--from", whole, "--values", "nowhere.json"}, "nowhere.json"},
		"an unknown argument":    {[]string{"--form", whole}, "unknown argument --form"},
		"an option without more": {[]string{"--from"}, "--from needs a value"},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr, code := check(t, c.args...)
			if code != 2 || stdout != "" || !strings.Contains(stderr, c.want) {
				t.Errorf("exit code %d, output %q, error %q; want 2, none and %q", code, stdout, stderr, c.want)
			}
		})
	}
}

// TestDefaults: the script's defaults for the chart's values are the chart's.
func TestDefaults(t *testing.T) {
	source := testkit.Value(os.ReadFile(script))(t)
	_, rest, _ := strings.Cut(string(source), "def defaults: ")
	object, _, found := strings.Cut(rest, "\n};")
	if !found {
		t.Fatal("the script has no \"def defaults\"")
	}
	data, err := exec.CommandContext(t.Context(), "jq", "-n", object+"}").Output()
	if err != nil {
		t.Fatalf("evaluating the defaults: %v", err)
	}
	var here, chart map[string]any
	testkit.Must(t, json.Unmarshal(data, &here))
	data = testkit.Value(os.ReadFile("../../charts/mayfly/values.yaml"))(t)
	testkit.Must(t, yaml.Unmarshal(data, &chart))
	compare(t, "", here, chart)
}

func compare(t *testing.T, path string, here, chart map[string]any) {
	t.Helper()
	for name, value := range here {
		inner, isMap := value.(map[string]any)
		theirs, theirsIsMap := chart[name].(map[string]any)
		if isMap && theirsIsMap {
			compare(t, path+name+".", inner, theirs)
			continue
		}
		a := testkit.Value(json.Marshal(value))(t)
		b := testkit.Value(json.Marshal(chart[name]))(t)
		if !bytes.Equal(a, b) {
			t.Errorf("%s%s is %s in the script, and %s in the chart", path, name, a, b)
		}
	}
}

// TestAllowList: an empty list is the default server alone, as in the chart, and
// "*" is any.
func TestAllowList(t *testing.T) {
	whole := store(t, "testdata/clean/cluster.yaml")
	const refusal = `vaultAddress is "https://vault.example:8200", which vault.allowedAddresses does not list`
	for values, refused := range map[string]bool{
		`{}`: false,
		`{"vault": {"address": "https://vault.example:8200"}}`:                            false,
		`{"vault": {"address": "https://other.example:8200"}}`:                            true,
		`{"vault": {"address": "https://other.example:8200", "allowedAddresses": ["*"]}}`: false,
		`{"vault": {"allowedAddresses": ["https://other.example:8200"]}}`:                 true,
	} {
		file := filepath.Join(t.TempDir(), "values.json")
		testkit.Must(t, os.WriteFile(file, []byte(values), 0o600))
		got, failure, _ := check(t, "--from", whole, "--values", file)
		if failure != "" || strings.Contains(got, refusal) != refused {
			t.Errorf("%s: refused is not %v; standard error %q, output:\n%s", values, refused, failure, got)
		}
	}
}
