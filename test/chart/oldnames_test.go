package chart

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestOldNames: a value under its earlier name has the same effect as under its own, and the schema
// says so.
func TestOldNames(t *testing.T) {
	names := oldNames(t)
	before := renderSet(t, "everything")
	for old, name := range names {
		sample := samples[name]
		want := renderSet(t, "everything", "--set-json", name+"="+sample)
		if got := renderSet(t, "everything", "--set-json", old+"="+sample); got != want || got == before {
			t.Errorf("%s=%s does not do what %s does", old, sample, name)
		}
	}
	for path := range deprecated(t) {
		if names[path] == "" {
			t.Errorf("%s is deprecated in the schema, and not in files/old-names.json", path)
		}
		delete(names, path)
	}
	for old := range names {
		t.Errorf("%s is in files/old-names.json, and not deprecated in the schema", old)
	}
}

func oldNames(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(chartDir, "files/old-names.json"))
	testkit.Must(t, err)
	var names map[string]string
	testkit.Must(t, json.Unmarshal(data, &names))
	return names
}

// deprecated are the values that the schema calls so, without groups.
func deprecated(t *testing.T) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	var walk func(path string, schema *schemaNode)
	walk = func(path string, schema *schemaNode) {
		if schema.Deprecated && len(schema.Properties) == 0 {
			found[path] = true
		}
		for key, below := range schema.Properties {
			walk(joinPath(path, key), below)
		}
	}
	data, err := os.ReadFile(filepath.Join(chartDir, "values.schema.json"))
	testkit.Must(t, err)
	root := &schemaNode{}
	testkit.Must(t, json.Unmarshal(data, root))
	walk("", root)
	return found
}

type schemaNode struct {
	Deprecated bool                   `json:"deprecated"`
	Properties map[string]*schemaNode `json:"properties"`
}

func joinPath(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
