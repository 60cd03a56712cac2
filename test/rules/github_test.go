package rules

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// notUpdated are the Go modules that Dependabot leaves alone, with the reason.
var notUpdated = map[string]string{
	"/test/cluster": "k8s.io/kubernetes and its replace directives move together, by hand",
	"/examples/go":  "it has no dependencies",
}

func TestDependabotKnowsEveryModule(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(root, ".github/dependabot.yml"))
	testkit.Must(t, err)
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
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
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
		paths, err := filepath.Glob(filepath.Join(root, ".github", pattern))
		testkit.Must(t, err)
		for _, path := range paths {
			count++
			data, err := os.ReadFile(path)
			testkit.Must(t, err)
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
