package pages

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/akeyless"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

const root = "../.."

// judge checks whether a block can run.
type judge struct {
	t         *testing.T
	helm      string
	providers map[string]provider.Validator
}

func newJudge(t *testing.T) *judge {
	t.Helper()
	j := &judge{t: t, providers: map[string]provider.Validator{}}
	j.helm = testkit.Value(toolcache.Get(t.Context(), os.Stderr, "helm"))(t)
	for _, name := range []string{vault.NameVault, vault.NameOpenBao} {
		j.providers[name] = testkit.Value(vault.New(vault.Config{Name: name, DefaultAddress: "https://vault.example:8200"}))(t)
	}
	j.providers["akeyless"] = testkit.Value(akeyless.New(akeyless.Config{}))(t)
	return j
}

// TestEveryBlockRuns: a block of a page is a command, an object or values that can run unchanged,
// or has a comment before it that says why it cannot.
func TestEveryBlockRuns(t *testing.T) {
	blocks := testkit.Value(Read(root))(t)
	j := newJudge(t)
	scripts := j.scripts()
	readers, run := map[string]*reader{}, map[Kind]int{}
	for _, b := range blocks {
		if b.NotRun != "" {
			continue
		}
		run[b.Kind]++
		if readers[b.Page] == nil {
			readers[b.Page] = newReader(t, scripts)
		}
		if err := j.check(b, readers[b.Page]); err != nil {
			t.Errorf("%s: cannot run (<!-- not run: the reason --> before the block marks it): %v", b, err)
		}
	}
	if run[Shell] < 10 || run[YAML] < 5 {
		t.Errorf("of %d blocks only %d are commands and %d are YAML", len(blocks), run[Shell], run[YAML])
	}
}

// scripts are those of hack/, as a reader calls them.
func (j *judge) scripts() []string {
	j.t.Helper()
	found := testkit.Value(filepath.Glob(filepath.Join(root, "hack", "*.sh")))(j.t)
	for i := range found {
		found[i] = testkit.Value(filepath.Rel(root, found[i]))(j.t)
	}
	return found
}

func (j *judge) check(b Block, r *reader) error {
	switch b.Kind {
	case Shell:
		return j.checkShell(b, r)
	case YAML:
		return j.checkYAML(b.Text)
	}
	return errors.New("it is neither shell nor YAML")
}

func (j *judge) checkShell(b Block, r *reader) error {
	calls, err := r.read(j.t.Context(), b.Text)
	if err != nil {
		return err
	}
	if len(calls) == 0 {
		return errors.New("it calls no program")
	}
	for _, call := range calls {
		if call[0] == "helm" && len(call) > 3 && call[3] == "charts/mayfly" {
			if err := j.checkHelm(call); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkHelm renders the command's chart.
func (j *judge) checkHelm(call []string) error {
	args := []string{"template", call[2], filepath.Join(root, call[3])}
	for i := 4; i < len(call); i++ {
		switch word := call[i]; {
		case slices.Contains([]string{"--reset-then-reuse-values", "--take-ownership", "--install", "--create-namespace", "--wait"}, word):
			// The rendered objects do not depend on it.
		case word == "--values" || word == "-f":
			i++ // the reader's own
		default:
			args = append(args, word)
		}
	}
	return j.template(args...)
}

func (j *judge) template(args ...string) error {
	cmd := exec.CommandContext(j.t.Context(), j.helm, append(args, "--kube-version="+toolcache.KubernetesVersion)...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+j.t.TempDir(), "KUBECONFIG=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// checkYAML requires objects of Kubernetes or of Mayfly, or values of the chart.
func (j *judge) checkYAML(text string) error {
	documents := utilyaml.NewDocumentDecoder(io.NopCloser(strings.NewReader(text)))
	defer func() { _ = documents.Close() }()
	buffer := make([]byte, len(text)+1)
	for {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = j.checkDocument(buffer[:n])
		}
		if err != nil {
			return err
		}
	}
}

func (j *judge) checkDocument(text []byte) error {
	var object struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal(text, &object); err != nil {
		return err
	}
	switch {
	case object.Kind == "SecretProviderClass":
		return j.checkClass(text)
	case object.Kind != "":
		strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
		_, _, err := strict.Decode(text, nil, nil)
		return err
	}
	file := filepath.Join(j.t.TempDir(), "values.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	return j.template("template", "mayfly", filepath.Join(root, "charts/mayfly"), "--values", file)
}

// checkClass wants a class that has neither an error nor a warning.
func (j *judge) checkClass(text []byte) error {
	if err := yaml.UnmarshalStrict(text, &v1.SecretProviderClass{}); err != nil {
		return err
	}
	objects, warnings, err := class.ParseManifest(text)
	if err != nil || len(warnings) > 0 || len(objects) != 1 {
		return fmt.Errorf("%d classes, %w, warnings %q", len(objects), err, warnings)
	}
	c, warnings, err := class.Parse(objects[0])
	if err != nil || len(warnings) > 0 {
		return fmt.Errorf("%w, warnings %q", err, warnings)
	}
	validator := j.providers[c.Provider]
	if validator == nil {
		return nil // a plugin's own parameters
	}
	if warnings, err := validator.Validate(c); err != nil || len(warnings) > 0 {
		return fmt.Errorf("%w, warnings %q", err, warnings)
	}
	return nil
}

func TestJudge(t *testing.T) {
	j := newJudge(t)
	const head = "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {name: a}\nspec:\n  provider: vault\n  parameters:\n    roleName: a\n"
	const objects = "    objects: |\n      - {objectName: a, secretPath: secret/data/a, secretKey: b}\n"
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: [{name: a, image: b}]\n"
	for _, tt := range []struct {
		kind Kind
		text string
		ok   bool
	}{
		{Other, "{}\n", false},
		{YAML, head + objects, true},
		{YAML, "---\n" + head + objects + "---\n" + pod, true},
		{YAML, head + objects + "    refreshIntervall: 1m\n", false},
		{YAML, head + objects + "    vaultAdress: https://a\n", false},
		{YAML, head + strings.Replace(objects, "secretKey", "secretkey", 1), false},
		{YAML, head, false},
		{YAML, head + objects + "  secretObject: []\n", false},
		{YAML, strings.Replace(head, "/v1", "/v2", 1) + objects, false},
		{YAML, pod, true},
		{YAML, pod + "  volume: []\n", false},
		{YAML, "apiVersion: v1\nkind: Pot\n", false},
		{YAML, "vault: {address: \"https://vault.example:8200\"}\n", true},
		{YAML, "vault: {adress: \"https://vault.example:8200\"}\n", false},
		{YAML, "a: [\n", false},
		{Shell, "helm install mayfly charts/mayfly --set vault.address=https://vault.example:8200 --values my.yaml\n", true},
		{Shell, "helm install mayfly charts/mayfly --set vault.adress=https://vault.example:8200\n", false},
		{Shell, "helm upgrade mayfly charts/mayfly --reset-then-reuse-value\n", false},
		{Shell, "true\n", false},
		{Shell, "az login\n", false},
	} {
		if err := j.check(Block{Kind: tt.kind, Text: tt.text}, newReader(t, nil)); (err == nil) != tt.ok {
			t.Errorf("%q: %v", tt.text, err)
		}
	}
}

// TestReadsAllPages: the blocks of a page that is not read would not be tested.
func TestReadsAllPages(t *testing.T) {
	blocks := testkit.Value(Read(root))(t)
	for _, page := range []string{"README.md", "docs/install.md", "docs/vault.md"} {
		if !slices.ContainsFunc(blocks, func(b Block) bool { return b.Page == page }) {
			t.Errorf("no block of %s was found", page)
		}
	}
	if _, err := Read(t.TempDir()); err == nil {
		t.Error("a directory without README.md was read")
	}
}
