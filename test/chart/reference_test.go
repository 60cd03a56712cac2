package chart

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

const referenceHead = `# Values of the chart

<!-- Made of charts/mayfly/values.yaml by "go test ./test/chart -update". Do not edit. -->

Give values with ` + "`--set name=value` or `--values file.yaml`" + ` to ` + "`helm install` and `helm upgrade`" + `. A
value that is not listed here, or that has another type, fails the command with
its name.
`

// chartHead begins the chart's own README, which is part of the packaged chart: its links must work
// without the repository.
const chartHead = `# Mayfly

<!-- Made of values.yaml by "go test ./test/chart -update". Do not edit. -->

A CSI node driver that gives pods their secrets as files in a private tmpfs, and
keeps them fresh for as long as the pod lives. It takes the manifests of the Secrets
Store CSI driver, and has Vault, OpenBao and Akeyless built in.

    helm install mayfly CHART --namespace kube-system \
      --set image.repository=REGISTRY/mayfly-node,image.tag=VERSION \
      --set vault.address=https://vault.example.com:8200
    kubectl --namespace kube-system rollout status daemonset/mayfly
    helm test mayfly --namespace kube-system

The [documentation](https://github.com/mayfly-csi/mayfly/tree/main/docs) has the set-up
of a store, and what to do before an upgrade or an uninstall. A value that is not
listed here, or that has another type, fails the command with its name.
`

// reference is the values as tables.
func reference(all []section, definitions *yaml.Node, names map[string]string) string {
	var text strings.Builder
	const columns = "\n| Value | Type | Default | Meaning |\n|---|---|---|---|\n"
	text.WriteString("\n## The driver as a whole\n" + columns)
	for _, s := range all {
		if len(s.values) == 1 && s.values[0].path == s.name {
			text.WriteString(row(s.values[0], definitions))
		}
	}
	for _, s := range all {
		if len(s.values) == 1 && s.values[0].path == s.name {
			continue
		}
		fmt.Fprintf(&text, "\n## %s\n\n%s\n%s", s.name, s.description, columns)
		for _, v := range s.values {
			text.WriteString(row(v, definitions))
		}
	}
	text.WriteString("\n## Old names\n\nThese work too, and count before the new ones. Some are the Secrets Store CSI driver's.\n\n| Old name | Value |\n|---|---|\n")
	for _, old := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&text, "| `%s` | `%s` |\n", old, names[old])
	}
	return text.String()
}

func row(v value, definitions *yaml.Node) string {
	if v.node == nil {
		return fmt.Sprintf("| `%s` | | | %s |\n", v.path, escape(v.description))
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s |\n", v.path, kind(v.schema, definitions), code(compact(v.node)), escape(v.description))
}

// kind describes a schema in a few words.
func kind(schema, definitions *yaml.Node) string {
	if ref := get(schema, "$ref"); ref != nil {
		name := strings.TrimPrefix(ref.Value, "#/definitions/")
		words := map[string]string{
			"optionalName": "name", "strings": "map of strings", "objects": "list of objects", "named": "list of objects",
			"duration": "duration", "interval": "duration", "optionalDuration": "duration", "path": "path",
		}
		if word, ok := words[name]; ok {
			return word
		}
		return kind(get(definitions, name), definitions)
	}
	if choice := get(schema, "enum"); choice != nil {
		var words []string
		for _, item := range choice.Content {
			words = append(words, "`"+item.Value+"`")
		}
		return strings.Join(words, ", ")
	}
	if items := get(schema, "items"); items != nil {
		return "list of " + kind(items, definitions) + "s"
	}
	return get(schema, "type").Value
}

// compact is a default on one line.
func compact(node *yaml.Node) string {
	var value any
	if err := node.Decode(&value); err != nil {
		return err.Error()
	}
	if text, ok := value.(string); ok && text != "" {
		return text
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err.Error()
	}
	return strings.TrimSpace(out.String())
}

func code(text string) string { return "`" + escape(text) + "`" }

// escape escapes a text for a table cell.
func escape(text string) string { return strings.ReplaceAll(text, "|", `\|`) }
