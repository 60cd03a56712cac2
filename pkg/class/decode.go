package class

import (
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

// pair is one entry of a mapping.
type pair struct {
	key   string
	where *yaml.Node // the key, for its line
	value *yaml.Node
}

// known reads the fields of a mapping; a field without a function is known
// and of no interest.
type known map[string]func(path *field.Path, n *yaml.Node)

func (r *reader) class(path *field.Path, n *yaml.Node, pairs []pair) {
	c := &v1.SecretProviderClass{}
	r.each(path, pairs, known{
		"apiVersion": func(p *field.Path, n *yaml.Node) { c.APIVersion = r.text(p, n) },
		"kind":       func(p *field.Path, n *yaml.Node) { c.Kind = r.text(p, n) },
		"metadata":   func(p *field.Path, n *yaml.Node) { r.metadata(p, n, c) },
		"spec":       func(p *field.Path, n *yaml.Node) { r.spec(p, n, &c.Spec) },
		"status":     nil,
	})
	if c.Name == "" && !r.failed {
		r.fail(child(path, "metadata").Child("name"), n, "is missing")
	}
	if !r.failed {
		r.classes = append(r.classes, c)
	}
}

func (r *reader) metadata(path *field.Path, n *yaml.Node, c *v1.SecretProviderClass) {
	r.fields(path, n, known{
		"name":        func(p *field.Path, n *yaml.Node) { c.Name = r.text(p, n) },
		"namespace":   func(p *field.Path, n *yaml.Node) { c.Namespace = r.text(p, n) },
		"labels":      func(p *field.Path, n *yaml.Node) { c.Labels = r.texts(p, n) },
		"annotations": func(p *field.Path, n *yaml.Node) { c.Annotations = r.texts(p, n) },
		// What the API server adds, as in the output of kubectl get.
		"creationTimestamp": nil, "deletionGracePeriodSeconds": nil, "deletionTimestamp": nil,
		"finalizers": nil, "generateName": nil, "generation": nil, "managedFields": nil,
		"ownerReferences": nil, "resourceVersion": nil, "selfLink": nil, "uid": nil,
	})
}

func (r *reader) spec(path *field.Path, n *yaml.Node, s *v1.SecretProviderClassSpec) {
	r.fields(path, n, known{
		"provider":   func(p *field.Path, n *yaml.Node) { s.Provider = r.text(p, n) },
		"parameters": func(p *field.Path, n *yaml.Node) { s.Parameters = r.texts(p, n) },
		"secretObjects": func(p *field.Path, n *yaml.Node) {
			for i, e := range r.elements(p, n) {
				s.SecretObjects = append(s.SecretObjects, r.secretObject(p.Index(i), e))
			}
		},
	})
}

func (r *reader) secretObject(path *field.Path, n *yaml.Node) (o v1.SecretObject) {
	r.fields(path, n, known{
		"secretName":  func(p *field.Path, n *yaml.Node) { o.SecretName = r.text(p, n) },
		"type":        func(p *field.Path, n *yaml.Node) { o.Type = r.text(p, n) },
		"labels":      func(p *field.Path, n *yaml.Node) { o.Labels = r.texts(p, n) },
		"annotations": func(p *field.Path, n *yaml.Node) { o.Annotations = r.texts(p, n) },
		"data": func(p *field.Path, n *yaml.Node) {
			for i, e := range r.elements(p, n) {
				var d v1.SecretObjectData
				r.fields(p.Index(i), e, known{
					"objectName": func(p *field.Path, n *yaml.Node) { d.ObjectName = r.text(p, n) },
					"key":        func(p *field.Path, n *yaml.Node) { d.Key = r.text(p, n) },
				})
				o.Data = append(o.Data, d)
			}
		},
	})
	return o
}

func (r *reader) fields(path *field.Path, n *yaml.Node, k known) {
	r.each(path, r.pairs(path, n), k)
}

func (r *reader) each(path *field.Path, pairs []pair, k known) {
	for _, p := range pairs {
		read, ok := k[p.key]
		switch {
		case !ok:
			r.warn(child(path, clip(p.key)), p.where, "no such field")
		case read != nil:
			read(child(path, p.key), p.value)
		}
	}
}

// pairs reads a mapping, with what is merged into it; null has no entries.
func (r *reader) pairs(path *field.Path, n *yaml.Node) []pair {
	list, merged := r.ownPairs(path, n, 0)
	if len(merged) == 0 {
		return list
	}
	known := make(map[string]bool, len(list))
	for _, p := range list {
		known[p.key] = true
	}
	for _, m := range merged {
		if !known[m.key] {
			known[m.key] = true
			list = append(list, m)
		}
	}
	return list
}

// ownPairs reads a mapping's entries apart from those merged into it, which
// give way to them.
func (r *reader) ownPairs(path *field.Path, n *yaml.Node, depth int) (own, merged []pair) {
	n = r.resolve(path, n)
	switch {
	case n == nil || isNull(n):
		return nil, nil
	case n.Kind != yaml.MappingNode || depth > maxNesting:
		r.fail(path, n, "must be a mapping, not nested too deeply")
		return nil, nil
	}
	seen := make(map[string]bool, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		where, value := n.Content[i], n.Content[i+1]
		if where.Tag == "!!merge" {
			merged = append(merged, r.merge(path, value, depth)...)
			continue
		}
		key := r.key(path, where)
		if seen[key] {
			r.fail(child(path, clip(key)), where, "is given twice")
			continue
		}
		seen[key] = true
		own = append(own, pair{key, where, value})
	}
	return own, merged
}

// merge reads what "<<" names: a mapping, or a list of them, the first of
// which wins.
func (r *reader) merge(path *field.Path, n *yaml.Node, depth int) []pair {
	sources := []*yaml.Node{n}
	if target := r.resolve(path, n); target != nil && target.Kind == yaml.SequenceNode {
		sources = target.Content
	}
	var all []pair
	for _, s := range sources {
		own, merged := r.ownPairs(path, s, depth+1)
		all = append(append(all, own...), merged...)
	}
	return all
}

func (r *reader) key(path *field.Path, n *yaml.Node) string {
	if n = r.resolve(path, n); n == nil {
		return ""
	}
	if n.Kind != yaml.ScalarNode {
		r.fail(path, n, "a key must be a string")
		return ""
	}
	return n.Value
}

func (r *reader) elements(path *field.Path, n *yaml.Node) []*yaml.Node {
	n = r.resolve(path, n)
	switch {
	case n == nil || isNull(n):
		return nil
	case n.Kind != yaml.SequenceNode:
		r.fail(path, n, "must be a list")
		return nil
	}
	return n.Content
}

func (r *reader) texts(path *field.Path, n *yaml.Node) map[string]string {
	pairs := r.pairs(path, n)
	if len(pairs) == 0 {
		return nil
	}
	m := make(map[string]string, len(pairs))
	for _, p := range pairs {
		m[p.key] = r.text(path.Child(clip(p.key)), p.value)
	}
	return m
}

// text reads a string. Kubernetes makes no string of a number or a boolean,
// and takes more words for booleans than YAML 1.2 does.
func (r *reader) text(path *field.Path, n *yaml.Node) string {
	if n = r.resolve(path, n); n == nil {
		return ""
	}
	switch tag := n.ShortTag(); {
	case n.Kind != yaml.ScalarNode:
		r.fail(path, n, "must be a string")
	case tag == "!!str" && n.Style == 0 && oldBoolean(n.Value):
		r.fail(path, n, `must be a string; without quotes Kubernetes takes it for a boolean: write "%s"`, n.Value)
	case tag == "!!null":
		r.fail(path, n, "must be a string, not null")
	case tag != "!!str" && tag != "!!timestamp":
		r.fail(path, n, `must be a string: write "%s"`, clip(n.Value))
	default:
		return n.Value
	}
	return ""
}

func oldBoolean(s string) bool {
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off":
		return true
	}
	return false
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// resolve follows an alias and charges the budget; nil once that is spent.
func (r *reader) resolve(path *field.Path, n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	spent := r.budget < 0
	r.budget -= 1 + len(n.Value)
	if r.budget >= 0 {
		return n
	}
	if !spent {
		r.fail(path, n, "the manifest's aliases make more than %d bytes", maxExpanded)
	}
	r.failed = true
	return nil
}
