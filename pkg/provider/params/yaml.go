package params

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/pkg/class"
)

const (
	maxDepth = 64
	// maxYAMLError bounds what the parser says, which may quote the text.
	maxYAMLError = 200
)

var errTooMuch = errors.New("is nested too deeply, or repeats too much through aliases")

// left is what may still be read of a list. What an alias repeats counts as
// often as it is repeated, so no form of YAML makes more of a text.
type left struct{ nodes, bytes int }

func (l *left) take(n *yaml.Node) error {
	l.nodes--
	l.bytes -= len(n.Value)
	if l.nodes < 0 || l.bytes < 0 {
		return errTooMuch
	}
	return nil
}

// parseYAML gives the root of one document; nil if there is nothing in it.
func parseYAML(text string) (*yaml.Node, error) {
	if len(text) > maxList {
		return nil, fmt.Errorf("is %d bytes long, more than %d", len(text), maxList)
	}
	if err := class.CheckYAML([]byte(text), maxMarks); err != nil {
		return nil, err
	}
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		return nil, fmt.Errorf("is not YAML: %s", clipTo(strings.TrimPrefix(err.Error(), "yaml: "), maxYAMLError))
	}
	if len(document.Content) == 0 {
		return nil, nil
	}
	return resolve(document.Content[0]), nil
}

// resolve follows aliases. A node tree, unlike decoded values, may hold an
// alias within its own anchor, so every walk over it is bounded.
func resolve(n *yaml.Node) *yaml.Node {
	for i := 0; i < maxDepth && n.Kind == yaml.AliasNode && n.Alias != nil; i++ {
		n = n.Alias
	}
	return n
}

type entry struct {
	key   string
	line  int
	value *yaml.Node
}

// entriesOf lists a map in its order. What a "<<" brings gives way to the
// map's own keys; a key given twice is an error.
func entriesOf(n *yaml.Node, l *left) ([]entry, error) {
	var list []entry
	var merged []*yaml.Node
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := resolve(n.Content[i]), resolve(n.Content[i+1])
		if err := l.take(key); err != nil {
			return nil, err
		}
		switch {
		case key.Kind != yaml.ScalarNode:
			return nil, fmt.Errorf("line %d: keys must be words", key.Line)
		case key.ShortTag() == "!!merge":
			merged = append(merged, value)
		case seen[key.Value]:
			return nil, fmt.Errorf("line %d: the key %q is given twice", key.Line, Clip(key.Value))
		default:
			seen[key.Value] = true
			list = append(list, entry{key.Value, key.Line, value})
		}
	}
	for _, m := range merged {
		var err error
		if list, err = merge(list, seen, m, l, 0); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// merge brings the keys of a map that are not there yet, and then those of its
// own merges; of a list of maps those of each, the first first.
func merge(list []entry, seen map[string]bool, m *yaml.Node, l *left, depth int) ([]entry, error) {
	if err := l.take(m); err != nil || depth > maxDepth {
		return nil, errTooMuch
	}
	var within []*yaml.Node
	switch m.Kind {
	case yaml.SequenceNode:
		within = m.Content
	case yaml.MappingNode:
		for i := 0; i+1 < len(m.Content); i += 2 {
			key, value := resolve(m.Content[i]), resolve(m.Content[i+1])
			if err := l.take(key); err != nil {
				return nil, err
			}
			switch {
			case key.Kind != yaml.ScalarNode:
				return nil, fmt.Errorf("line %d: keys must be words", key.Line)
			case key.ShortTag() == "!!merge":
				within = append(within, value)
			case !seen[key.Value]:
				seen[key.Value] = true
				list = append(list, entry{key.Value, key.Line, value})
			}
		}
	default:
		return nil, fmt.Errorf("line %d: what is merged must be a map or a list of maps, not %s", m.Line, kindOf(m))
	}
	for _, w := range within {
		var err error
		if list, err = merge(list, seen, resolve(w), l, depth+1); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// toJSON gives what encoding/json writes as the YAML means it.
func toJSON(n *yaml.Node, depth int, l *left) (any, error) {
	n = resolve(n)
	if err := l.take(n); err != nil || depth > maxDepth {
		return nil, errTooMuch
	}
	switch n.Kind {
	case yaml.MappingNode:
		entries, err := entriesOf(n, l)
		if err != nil {
			return nil, err
		}
		m := make(map[string]any, len(entries))
		for _, e := range entries {
			if m[e.key], err = toJSON(e.value, depth+1, l); err != nil {
				return nil, err
			}
		}
		return m, nil
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, item := range n.Content {
			var err error
			if list[i], err = toJSON(item, depth+1, l); err != nil {
				return nil, err
			}
		}
		return list, nil
	case yaml.ScalarNode:
		return scalar(n)
	}
	return nil, errTooMuch
}

func scalar(n *yaml.Node) (any, error) {
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		return b, n.Decode(&b)
	case "!!int":
		i, ok := new(big.Int).SetString(strings.ReplaceAll(n.Value, "_", ""), 0)
		if len(n.Value) <= 100 && ok {
			return json.Number(i.String()), nil
		}
	case "!!float":
		if json.Valid([]byte(n.Value)) {
			return json.Number(n.Value), nil
		}
		var f float64 // such as .5, which JSON writes otherwise
		if err := n.Decode(&f); err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, fmt.Errorf("line %d: %s has no JSON form", n.Line, Clip(n.Value))
		}
		return f, nil
	}
	return n.Value, nil
}

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
