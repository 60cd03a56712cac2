package params

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/printable"
)

const (
	maxDepth = 64
	// maxYAMLError bounds the parser's error text, which may quote the list.
	maxYAMLError = 200
)

// left is how much of a list may still be read. Each use of an alias counts, so no form of YAML can
// expand a text further.
type left struct{ nodes, bytes int }

func (l *left) take(n *yaml.Node) error {
	l.nodes--
	l.bytes -= len(n.Value)
	if l.nodes < 0 || l.bytes < 0 {
		return class.ErrNested
	}
	return nil
}

// parseYAML returns the root of one document; nil if it is empty.
func parseYAML(text string) (*yaml.Node, error) {
	if len(text) > maxList {
		return nil, fmt.Errorf("is %d bytes long, more than %d", len(text), maxList)
	}
	if err := class.CheckYAML([]byte(text), maxMarks); err != nil {
		return nil, err
	}
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(text), &document); err != nil {
		return nil, fmt.Errorf("is not YAML: %s", printable.Cut(strings.TrimPrefix(err.Error(), "yaml: "), maxYAMLError))
	}
	if len(document.Content) == 0 {
		return nil, nil
	}
	return class.Resolve(document.Content[0]), nil
}

// toJSON returns the value that encoding/json would decode from the same JSON.
func toJSON(n *yaml.Node, depth int, l *left) (any, error) {
	n = class.Resolve(n)
	if err := l.take(n); err != nil || depth > maxDepth {
		return nil, class.ErrNested
	}
	switch n.Kind {
	case yaml.MappingNode:
		entries, err := class.Entries(n, l.take)
		if err != nil {
			return nil, err
		}
		m := make(map[string]any, len(entries))
		for _, e := range entries {
			if m[e.Key], err = toJSON(e.Value, depth+1, l); err != nil {
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
	return nil, class.ErrNested
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
