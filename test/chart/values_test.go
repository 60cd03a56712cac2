package chart

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

type value struct {
	path        string     // vault.tls.serverName
	node        *yaml.Node // nil for a group, which only has values below it
	description string
	schema      *yaml.Node
}

// section is a top-level entry with its values: itself, or those below it.
type section struct {
	name, description string
	values            []value
}

func parse(t *testing.T, name string) *yaml.Node {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(chartDir, name))
	testkit.Must(t, err)
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		t.Fatalf("parsing %s: %v", name, err)
	}
	return document.Content[0]
}

// get is the value of a key of a mapping, nil if there is none.
func get(mapping *yaml.Node, key string) *yaml.Node {
	if mapping == nil || mapping.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// comment is a comment as one line of prose.
func comment(node *yaml.Node) string {
	var words []string
	for line := range strings.Lines(node.HeadComment) {
		words = append(words, strings.Fields(strings.TrimPrefix(line, "#"))...)
	}
	return strings.Join(words, " ")
}

// describe calls back for each documented entry of values.yaml, groups included,
// with its entry in the schema (nil where that is missing).
func describe(values, schema *yaml.Node, path string, visit func(path, description string, node, schema *yaml.Node)) {
	for i := 0; i < len(values.Content); i += 2 {
		key, node := values.Content[i], values.Content[i+1]
		here := strings.TrimPrefix(path+"."+key.Value, ".")
		below := get(get(schema, "properties"), key.Value)
		visit(here, comment(key), node, below)
		if isGroup(node, below) {
			describe(node, below, here, visit)
		}
	}
}

// isGroup tells a mapping of the chart's own values from one that is a value.
func isGroup(node, schema *yaml.Node) bool {
	if node.Kind != yaml.MappingNode || get(schema, "properties") == nil {
		return false
	}
	key := node.Content[0]
	return comment(key) != ""
}

func sections(t *testing.T) []section {
	t.Helper()
	var all []section
	describe(parse(t, "values.yaml"), parse(t, "values.schema.json"), "", func(path, description string, node, schema *yaml.Node) {
		if !strings.Contains(path, ".") {
			all = append(all, section{name: path, description: description})
		}
		last := &all[len(all)-1]
		switch group := isGroup(node, schema); {
		case !group:
			last.values = append(last.values, value{path, node, description, schema})
		case strings.Contains(path, "."):
			last.values = append(last.values, value{path: path, description: description})
		}
	})
	return all
}

// TestSchemaDescribesValues: every value is in the schema, with the text of values.yaml. -update
// writes them there.
func TestSchemaDescribesValues(t *testing.T) {
	schema := parse(t, "values.schema.json")
	describe(parse(t, "values.yaml"), schema, "", func(path, description string, _, schema *yaml.Node) {
		if schema == nil {
			t.Fatalf("%s: not in values.schema.json", path)
		}
		if description == "" {
			t.Errorf("%s: no comment above it in values.yaml", path)
		}
		setDescription(schema, description)
	})
	setExtraArgs(t, schema)
	var text bytes.Buffer
	testkit.Must(t, writeJSON(&text, schema, ""))
	golden(t, filepath.Join(chartDir, "values.schema.json"), text.String()+"\n")
}

// TestSchemaHasNothingElse: the schema knows no value that values.yaml lacks.
func TestSchemaHasNothingElse(t *testing.T) {
	known := map[string]bool{"global": true}
	describe(parse(t, "values.yaml"), parse(t, "values.schema.json"), "", func(path, _ string, node, schema *yaml.Node) {
		known[path] = true
		if isGroup(node, schema) {
			return
		}
		for key := range properties(schema) { // of a value that is free below
			known[path+"."+key] = true
		}
	})
	var check func(path string, schema *yaml.Node)
	check = func(path string, schema *yaml.Node) {
		for key, below := range properties(schema) {
			here := strings.TrimPrefix(path+"."+key, ".")
			if get(below, "deprecated") != nil {
				continue // an old name, which values.yaml leaves out
			}
			if !known[here] {
				t.Errorf("%s: in values.schema.json, not in values.yaml", here)
			}
			check(here, below)
		}
	}
	check("", parse(t, "values.schema.json"))
}

func properties(schema *yaml.Node) map[string]*yaml.Node {
	all := map[string]*yaml.Node{}
	if list := get(schema, "properties"); list != nil {
		for i := 0; i < len(list.Content); i += 2 {
			all[list.Content[i].Value] = list.Content[i+1]
		}
	}
	return all
}

func TestReference(t *testing.T) {
	all, definitions := sections(t), get(parse(t, "values.schema.json"), "definitions")
	golden(t, "../../docs/values.md", referenceHead+reference(all, definitions, oldNames(t)))
	golden(t, filepath.Join(chartDir, "README.md"), chartHead+reference(all, definitions, oldNames(t)))
}
