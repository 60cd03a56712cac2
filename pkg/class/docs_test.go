package class_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestDocumentedClasses: the classes on the pages can be applied unchanged, and each store that a
// plugin serves has one.
func TestDocumentedClasses(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	testkit.Must(t, err)
	var providers []string
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		testkit.Must(t, err)
		for _, block := range yamlBlocks(string(text)) {
			if strings.Contains(block, "kind: SecretProviderClass\n") {
				for _, spc := range documented(t, page, block) {
					providers = append(providers, spc.Spec.Provider)
				}
			}
		}
	}
	for _, want := range []string{"vault", "akeyless", "aws", "azure", "gcp", "conjur", "infisical"} {
		if !slices.Contains(providers, want) {
			t.Errorf("no page shows a class of %s", want)
		}
	}
}

func documented(t *testing.T, page, manifest string) []*v1.SecretProviderClass {
	t.Helper()
	classes, _, err := class.ParseManifest([]byte(manifest))
	if err != nil || len(classes) == 0 {
		t.Errorf("%s: %d classes, %v, in\n%s", page, len(classes), err, manifest)
	}
	for _, spc := range classes {
		if _, warnings, err := class.Parse(spc); err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v, warnings %q, in\n%s", page, err, warnings, manifest)
		}
		for _, key := range []string{"objects", "secrets"} {
			checkNested(t, page, spc.Spec.Parameters[key])
		}
	}
	return classes
}

// checkNested reads the YAML in a parameter: a list, or Azure's "array" of strings that are YAML
// again.
func checkNested(t *testing.T, page, text string) {
	t.Helper()
	if text == "" {
		return
	}
	var azure struct {
		Array []string `json:"array"`
	}
	if yaml.Unmarshal([]byte(text), &azure) == nil && len(azure.Array) > 0 {
		for _, object := range azure.Array {
			var fields map[string]string
			if err := yaml.UnmarshalStrict([]byte(object), &fields); err != nil || len(fields) == 0 {
				t.Errorf("%s: %d fields, %v, in\n%s", page, len(fields), err, object)
			}
		}
		return
	}
	var list []map[string]any
	if err := yaml.UnmarshalStrict([]byte(text), &list); err != nil || len(list) == 0 {
		t.Errorf("%s: %d objects, %v, in\n%s", page, len(list), err, text)
	}
}

// yamlBlocks are the fenced YAML blocks of a page.
func yamlBlocks(text string) []string {
	var blocks []string
	for {
		_, rest, found := strings.Cut(text, "```yaml\n")
		if !found {
			return blocks
		}
		block, after, _ := strings.Cut(rest, "```")
		blocks, text = append(blocks, block), after
	}
}
