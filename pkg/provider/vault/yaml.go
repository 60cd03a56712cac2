package vault

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"

	"go.yaml.in/yaml/v3"
)

const (
	maxObjectsBytes = 512 << 10
	maxYAMLNodes    = 20000 // visited, so each alias counts what it stands for
	maxYAMLDepth    = 64
)

var errTooMuchYAML = errors.New("is nested too deeply or repeats too much through aliases")

// parseYAML reads one document and returns its root; nil if it is empty.
func parseYAML(text string) (*yaml.Node, error) {
	if len(text) > maxObjectsBytes {
		return nil, fmt.Errorf("is %d bytes long, more than %d", len(text), maxObjectsBytes)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return nil, fmt.Errorf("is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if doc.Kind == 0 || len(doc.Content) == 0 {
		return nil, nil
	}
	return resolve(doc.Content[0]), nil
}

// resolve follows an alias. yaml refuses an alias within its own anchor only
// when it decodes into values, so walks must be bounded all the same.
func resolve(n *yaml.Node) *yaml.Node {
	for range maxYAMLDepth {
		if n.Kind != yaml.AliasNode || n.Alias == nil {
			break
		}
		n = n.Alias
	}
	return n
}

// entry is one key of a YAML map.
type yamlEntry struct {
	key   string
	line  int
	value *yaml.Node
}

// entries lists a map in order. A "<<" merge gives way to the map's own keys;
// a key given twice is an error.
func entries(n *yaml.Node) ([]yamlEntry, error) {
	var out []yamlEntry
	seen := map[string]bool{}
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := resolve(n.Content[i]), n.Content[i+1]
		switch {
		case k.Kind != yaml.ScalarNode:
			return nil, fmt.Errorf("line %d: keys must be words", k.Line)
		case k.ShortTag() == "!!merge":
			merges = append(merges, resolve(v))
		case seen[k.Value]:
			return nil, fmt.Errorf("line %d: the key %q is given twice", k.Line, clip(k.Value))
		default:
			seen[k.Value] = true
			out = append(out, yamlEntry{k.Value, k.Line, resolve(v)})
		}
	}
	for _, m := range merges {
		out = appendMerged(out, seen, m)
	}
	return out, nil
}

// appendMerged adds what is not there yet. A merge within a merge is not
// followed: nobody writes it, and it could be endless.
func appendMerged(out []yamlEntry, seen map[string]bool, m *yaml.Node) []yamlEntry {
	if m.Kind != yaml.MappingNode {
		return out
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		k := resolve(m.Content[i])
		if k.Kind == yaml.ScalarNode && k.ShortTag() != "!!merge" && !seen[k.Value] {
			seen[k.Value] = true
			out = append(out, yamlEntry{k.Value, k.Line, resolve(m.Content[i+1])})
		}
	}
	return out
}

// toJSON makes a YAML value one that encoding/json writes, keeping numbers as
// they are written. left is how many more nodes may be visited.
func toJSON(n *yaml.Node, depth int, left *int) (any, error) {
	n = resolve(n)
	if *left--; *left < 0 || depth > maxYAMLDepth {
		return nil, errTooMuchYAML
	}
	switch n.Kind {
	case yaml.MappingNode:
		return mapToJSON(n, depth, left)
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, item := range n.Content {
			v, err := toJSON(item, depth+1, left)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case yaml.ScalarNode:
		return scalarToJSON(n)
	}
	return nil, errTooMuchYAML
}

func mapToJSON(n *yaml.Node, depth int, left *int) (any, error) {
	list, err := entries(n)
	if err != nil {
		return nil, err
	}
	m := make(map[string]any, len(list))
	for _, e := range list {
		if m[e.key], err = toJSON(e.value, depth+1, left); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func scalarToJSON(n *yaml.Node) (any, error) {
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		err := n.Decode(&b)
		return b, err
	case "!!int":
		i, ok := new(big.Int).SetString(strings.ReplaceAll(n.Value, "_", ""), 0)
		if !ok || len(n.Value) > 100 {
			return n.Value, nil
		}
		return json.Number(i.String()), nil
	case "!!float":
		if json.Valid([]byte(n.Value)) {
			return json.Number(n.Value), nil
		}
		var f float64
		if err := n.Decode(&f); err != nil {
			return nil, err
		}
		if _, err := json.Marshal(f); err != nil {
			return nil, fmt.Errorf("line %d: %s has no JSON form", n.Line, clip(n.Value))
		}
		return f, nil
	}
	return n.Value, nil
}

// kindOf names a value's kind for an error.
func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "empty"
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "a boolean"
	}
	return "text"
}
