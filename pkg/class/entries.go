package class

import (
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Entry is one key of a YAML map and its value.
type Entry struct {
	Key   string
	Where *yaml.Node // of the key, for its line
	Value *yaml.Node
}

// MapError describes a mistake in a YAML map.
type MapError struct {
	Key     string // empty if it does not concern one key
	Where   *yaml.Node
	Problem string
}

func (e *MapError) Error() string {
	if e.Key == "" {
		return fmt.Sprintf("line %d: %s", e.Where.Line, e.Problem)
	}
	return fmt.Sprintf("line %d: the key %q %s", e.Where.Line, clip(e.Key), e.Problem)
}

// ErrNested says that a map merges more deeply than any manifest does.
var ErrNested = errors.New("is nested too deeply, or repeats too much through aliases")

// Resolve follows aliases. A tree of nodes, unlike decoded values, may contain an alias within its
// own anchor, so every walk over it must be bounded.
func Resolve(n *yaml.Node) *yaml.Node {
	for i := 0; i < maxNesting && n.Kind == yaml.AliasNode && n.Alias != nil; i++ {
		n = n.Alias
	}
	return n
}

// Entries lists a map in its order, with YAML's merge key applied: the map's own keys override
// those merged by "<<", and the first of a list of merged maps wins. A key given twice is an error.
// Entries calls take before it looks at a node, and ends with its error: with aliases a short text
// can expand to a long one.
func Entries(n *yaml.Node, take func(*yaml.Node) error) ([]Entry, error) {
	w := walk{take: take, seen: map[string]bool{}}
	err := w.entries(n, 0)
	return w.list, err
}

type walk struct {
	take func(*yaml.Node) error
	seen map[string]bool
	list []Entry
}

func (w *walk) entries(n *yaml.Node, depth int) error {
	var merged []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		where, key := n.Content[i], Resolve(n.Content[i])
		if err := w.take(key); err != nil {
			return err
		}
		switch {
		case key.Kind != yaml.ScalarNode:
			return &MapError{Where: where, Problem: "a key must be a string"}
		case key.ShortTag() == "!!merge":
			merged = append(merged, Resolve(n.Content[i+1]))
		case w.seen[key.Value] && depth == 0:
			return &MapError{key.Value, where, "is given twice"}
		case !w.seen[key.Value]:
			w.seen[key.Value] = true
			w.list = append(w.list, Entry{key.Value, where, Resolve(n.Content[i+1])})
		}
	}
	for _, m := range merged {
		if err := w.merge(m, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) merge(m *yaml.Node, depth int) error {
	if depth > maxNesting {
		return ErrNested
	}
	if err := w.take(m); err != nil {
		return err
	}
	switch m.Kind {
	case yaml.MappingNode:
		return w.entries(m, depth)
	case yaml.SequenceNode:
		for _, item := range m.Content {
			if err := w.merge(Resolve(item), depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return &MapError{Where: m, Problem: "what is merged must be a map or a list of maps, not " + KindOf(m)}
}

// KindOf names a node's kind in words for people.
func KindOf(n *yaml.Node) string {
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
