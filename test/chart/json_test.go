package chart

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// setDescription puts a description first in a schema.
func setDescription(schema *yaml.Node, text string) {
	value := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	if old := get(schema, "description"); old != nil {
		*old = *value
		return
	}
	key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "description"}
	schema.Content = append([]*yaml.Node{key, value}, schema.Content...)
}

// writeJSON prints a YAML tree as JSON. It keeps the order of the keys, which encoding/json does
// not.
func writeJSON(w *bytes.Buffer, node *yaml.Node, indent string) error {
	step, open, end := 1, "[", "]"
	switch node.Kind {
	case yaml.ScalarNode:
		return writeScalar(w, node)
	case yaml.MappingNode:
		step, open, end = 2, "{", "}"
	case yaml.SequenceNode:
	default:
		return fmt.Errorf("line %d: JSON has nothing like it", node.Line)
	}
	w.WriteString(open)
	for i := 0; i < len(node.Content); i += step {
		if i > 0 {
			w.WriteByte(',')
		}
		w.WriteString("\n  " + indent)
		if step == 2 {
			if err := writeScalar(w, node.Content[i]); err != nil {
				return err
			}
			w.WriteString(": ")
		}
		if err := writeJSON(w, node.Content[i+step-1], indent+"  "); err != nil {
			return err
		}
	}
	if len(node.Content) > 0 {
		w.WriteString("\n" + indent)
	}
	w.WriteString(end)
	return nil
}

func writeScalar(w *bytes.Buffer, node *yaml.Node) error {
	var value any
	if err := node.Decode(&value); err != nil {
		return err
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err
	}
	w.Truncate(w.Len() - 1) // Encode ends the line
	return nil
}
