package class

import (
	"errors"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

// errSpent says that the budget is used up. The reader has reported the mistake already.
var errSpent = errors.New("the budget is spent")

// known has a function to read each field of a mapping; a known field with a nil function is
// ignored.
type known map[string]func(path *field.Path, n *yaml.Node)

func (r *reader) class(path *field.Path, n *yaml.Node, pairs []Entry) {
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
		// The API server adds these; they are in the output of kubectl get.
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

func (r *reader) each(path *field.Path, pairs []Entry, k known) {
	for _, p := range pairs {
		read, ok := k[p.Key]
		switch {
		case !ok:
			r.warn(child(path, clip(p.Key)), p.Where, "no such field")
		case read != nil:
			read(child(path, p.Key), p.Value)
		}
	}
}

// pairs reads a mapping, with its merged mappings; null has no entries.
func (r *reader) pairs(path *field.Path, n *yaml.Node) []Entry {
	n = r.resolve(path, n)
	switch {
	case n == nil || isNull(n):
		return nil
	case n.Kind != yaml.MappingNode:
		r.fail(path, n, "must be a mapping")
		return nil
	}
	list, err := Entries(n, func(n *yaml.Node) error {
		if r.resolve(path, n) == nil {
			return errSpent
		}
		return nil
	})
	var wrong *MapError
	switch {
	case errors.As(err, &wrong) && wrong.Key != "":
		r.fail(child(path, clip(wrong.Key)), wrong.Where, "%s", wrong.Problem)
	case wrong != nil:
		r.fail(path, wrong.Where, "%s", wrong.Problem)
	case err != nil && !errors.Is(err, errSpent):
		r.fail(path, n, "%s", err)
	}
	return list
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
		m[p.Key] = r.text(path.Child(clip(p.Key)), p.Value)
	}
	return m
}

// text reads a string. Kubernetes does not convert a number or a boolean to a string, and accepts
// more words for booleans than YAML 1.2.
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
	return slices.Contains([]string{"y", "n", "yes", "no", "on", "off"}, strings.ToLower(s))
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// resolve follows an alias and charges the budget; nil once that is used up.
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
