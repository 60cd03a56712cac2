// Package rules has the rules of the code base as tests: which package may import which, and what
// every package must have.
package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

const module = "github.com/mayfly-csi/mayfly/"

type pkg struct {
	ImportPath string
	Dir        string
	Doc        string
	GoFiles    []string
	Imports    []string
	Deps       []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-tags="+releaseTag, "-json=ImportPath,Dir,Doc,GoFiles,Imports,Deps", module+"...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		testkit.Must(t, err)
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
		all = append(all, p)
	}
}

// forbidden: packages below from must not depend on packages below to, even indirectly.
var forbidden = []struct{ from, to, why string }{
	{"pkg/provider", module + "pkg/volume", "a provider knows stores, not volumes"},
	{"pkg/provider", "k8s.io/client-go", "a provider acts as the pod and has no access to the API server"},
	{"pkg/provider", module + "pkg/csi", "a provider knows stores, not kubelet"},
	{"pkg/csi", module + "pkg/provider/", "csi serves whatever providers there are"},
	{"pkg/volume", module + "pkg/provider/", "the pipeline is the same for every provider"},
	{"pkg/volume", "k8s.io/client-go", "the pipeline works without an API server"},
	{"pkg/volume", module + "pkg/csi", "the pipeline is called by csi, not the other way round"},
	{"pkg/cli", module + "pkg/csi", "the command line tool is not a driver"},
	{"pkg/cli", module + "pkg/node", "the command line tool is not a driver"},
	{"pkg/cli", module + "pkg/volume", "the command line tool is not a driver"},
	{"pkg/cli", module + "pkg/statusz/page", "the command line tool reads the status and does not serve it"},
	{"pkg/class", module + "pkg/provider", "a class is read before a provider is chosen"},
	{"pkg/provider/endpoint", "k8s.io/apimachinery", "the KMS plugin reaches Vault with it, and has 20 MB of memory"},
	{"pkg/kms", module + "pkg/volume", "the KMS plugin knows keys, not volumes"},
	{"pkg/kms", module + "pkg/csi", "the KMS plugin serves the API server, not kubelet"},
	{"pkg/kms", module + "pkg/provider/vault", "the KMS plugin has a login of its own, and never acts as a pod"},
	{"cmd/mayfly-node", "k8s.io/api", "its kinds with their methods would be a seventh of the driver's memory; pkg/kubeclient/corev1 has what is needed"},
	{"cmd/mayfly-kms", "k8s.io/client-go", "it would be a fifth of the memory of a process that must be small"},
	{"pkg/kms", "go.opentelemetry.io/otel/sdk", "the KMS plugin sends no traces, and has 20 MB of memory"},
	{"pkg/cli", "go.opentelemetry.io/otel/sdk", "the command line tool sends no traces"},
	{"pkg", module + "test", "the product does not depend on its tests"},
	{"cmd", module + "test", "the product does not depend on its tests"},
	{"cmd", "testing", "testing registers flags"},
}

func TestDirections(t *testing.T) {
	for _, p := range packages(t) {
		for _, rule := range forbidden {
			if !below(p.ImportPath, rule.from) {
				continue
			}
			for _, dep := range p.Deps {
				if dep != module+p.ImportPath && below(dep, strings.TrimSuffix(rule.to, "/")) && (!strings.HasSuffix(rule.to, "/") || dep != strings.TrimSuffix(rule.to, "/")) {
					t.Errorf("%s depends on %s: %s", p.ImportPath, dep, rule.why)
				}
			}
		}
	}
}

// Only the composition root may name concrete providers and class sources.
func TestOnlyNodeImportsProviders(t *testing.T) {
	for _, p := range packages(t) {
		for _, imp := range p.Imports {
			for _, concrete := range []string{"pkg/provider/vault", "pkg/provider/akeyless", "pkg/provider/plugin", "pkg/class/kube", "pkg/class/manifests"} {
				if below(imp, module+concrete) && !below(p.ImportPath, concrete) && !below(p.ImportPath, "pkg/node") && !below(p.ImportPath, "pkg/cli") && !below(p.ImportPath, "test") {
					t.Errorf("%s imports %s: only pkg/node puts providers and sources together", p.ImportPath, imp)
				}
			}
		}
	}
}

// Only pkg/trace imports OpenTelemetry; other packages use its few functions.
func TestOnlyTraceImportsOpenTelemetry(t *testing.T) {
	for _, p := range packages(t) {
		for _, imp := range p.Imports {
			if below(imp, "go.opentelemetry.io") && !below(p.ImportPath, "pkg/trace") && !below(p.ImportPath, "test") {
				t.Errorf("%s imports %s: only pkg/trace does", p.ImportPath, imp)
			}
		}
	}
}

// releaseTag builds gRPC without its pages of traces, which are templates.
const releaseTag = "grpcnotrace"

// A program that can look up a method by any name keeps every exported method of all of its
// packages. text/template does, and made the driver and its memory 4 MB larger.
func TestDriverHasNoTemplates(t *testing.T) {
	for _, p := range packages(t) {
		if p.ImportPath == "cmd/mayfly-node" && slices.Contains(p.Deps, "text/template") {
			t.Errorf("%s depends on text/template: pkg/rendered/tmpl and pkg/statusz/page say what to use instead", p.ImportPath)
		}
	}
	for _, name := range []string{"Makefile", "hack/image/source.go", "test/bench/driver/build.go", "test/kmscluster/rig_test.go"} {
		text := testkit.Value(os.ReadFile(filepath.Join(root, name)))(t)
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "-trimpath") && !strings.Contains(line, releaseTag) {
				t.Errorf("%s builds without the tag %s: %s", name, releaseTag, line)
			}
		}
	}
}

func below(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		if p.Doc == "" {
			t.Errorf("%s has no doc comment", p.ImportPath)
		}
		switch filepath.Base(p.ImportPath) {
		case "util", "utils", "common", "helpers", "types", "misc":
			t.Errorf("%s: the name says nothing about what is in it", p.ImportPath)
		}
	}
}

// No package registers itself, starts goroutines or keeps state by being
// imported.
func TestNoInit(t *testing.T) {
	for _, p := range packages(t) {
		if !below(p.ImportPath, "pkg") && !below(p.ImportPath, "cmd") {
			continue
		}
		for _, name := range p.GoFiles {
			if strings.HasSuffix(name, ".pb.go") {
				continue // as protoc-gen-go makes it
			}
			file := testkit.Value(parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, 0))(t)
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
					t.Errorf("%s/%s has an init function", p.ImportPath, name)
				}
			}
		}
	}
}

// TestSupportNamesWhatIsTested: the pages name the versions that the tests use.
func TestSupportNamesWhatIsTested(t *testing.T) {
	read := func(name string) string {
		data := testkit.Value(os.ReadFile(filepath.Join(root, name)))(t)
		return string(data)
	}
	vault := regexp.MustCompile(`(?m)^require github\.com/hashicorp/vault v(\S+)$`).FindStringSubmatch(read("test/vaultd/go.mod"))
	if vault == nil {
		t.Fatal("test/vaultd/go.mod requires no Vault")
	}
	if !strings.Contains(read("test/vaultcli/go.mod"), vault[0]) {
		t.Errorf("test/vaultcli is of another version of Vault than test/vaultd, %s", vault[1])
	}
	kubernetes, helm := strings.TrimPrefix(toolcache.KubernetesVersion, "v"), strings.TrimPrefix(toolcache.HelmVersion, "v")
	for page, versions := range map[string][]string{
		"docs/support.md": {kubernetes, vault[1], helm},
		"README.md":       {kubernetes, vault[1]},
	} {
		text := read(page)
		testkit.Has(t, text, versions...)
	}
}

// notUpdated are the Go modules that Dependabot leaves alone, with the reason.
var notUpdated = map[string]string{
	"/test/cluster": "k8s.io/kubernetes and its replace directives move together, by hand",
	"/examples/go":  "it has no dependencies",
}

func TestDependabotKnowsEveryModule(t *testing.T) {
	data := testkit.Value(os.ReadFile(filepath.Join(root, ".github/dependabot.yml")))(t)
	var config struct {
		Updates []struct {
			Ecosystem   string   `yaml:"package-ecosystem"`
			Directories []string `yaml:"directories"`
		} `yaml:"updates"`
	}
	testkit.Must(t, yaml.Unmarshal(data, &config))
	var listed []string
	for _, u := range config.Updates {
		if u.Ecosystem == "gomod" {
			listed = append(listed, u.Directories...)
		}
	}
	var found []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == ".cache" || d.Name() == "dist") {
			return filepath.SkipDir
		}
		if d.Name() == "go.mod" {
			name, err := filepath.Rel(root, filepath.Dir(path))
			if err != nil {
				return err
			}
			found = append(found, strings.TrimSuffix("/"+name, "."))
		}
		return nil
	})
	testkit.Must(t, err)
	for _, name := range found {
		if reason := notUpdated[name]; slices.Contains(listed, name) == (reason != "") {
			t.Errorf("module %s: in dependabot.yml %v, reason to leave it out %q", name, slices.Contains(listed, name), reason)
		}
	}
	for _, name := range listed {
		if !slices.Contains(found, name) {
			t.Errorf("dependabot.yml names %s, which is no Go module", name)
		}
	}
}

// TestGitHubFilesAreYAML: GitHub shows no template, and runs no workflow, that
// it cannot read.
func TestGitHubFilesAreYAML(t *testing.T) {
	count := 0
	for _, pattern := range []string{"*.yml", "*/*.yml"} {
		paths := testkit.Value(filepath.Glob(filepath.Join(root, ".github", pattern)))(t)
		for _, path := range paths {
			count++
			data := testkit.Value(os.ReadFile(path))(t)
			var value map[string]any
			if err := yaml.Unmarshal(data, &value); err != nil || len(value) == 0 {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	if count < 5 {
		t.Errorf("%d files", count)
	}
}
