package rendered

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/rendered/tmpl"
)

// The fields of an entry of secretTemplates.
const (
	fieldSecretName  = "secretName"
	fieldData        = "data"
	fieldLabels      = "labels"
	fieldAnnotations = "annotations"
)

// maxSecretTexts bounds the templates of all entries of secretTemplates together.
const maxSecretTexts = 100

// Secret is an entry of secretTemplates: the templates of one Secret of secretObjects.
type Secret struct {
	// Field is the entry of the class, such as spec.parameters.secretTemplates[0].
	Field string
	Name  string
	// Data, Labels and Annotations are the texts of the templates, by the keys of their results.
	Data, Labels, Annotations map[string]string

	templates map[string]*tmpl.Template // by text
}

// SecretParts are the results of the templates of one Secret.
type SecretParts struct {
	Data                map[string][]byte
	Labels, Annotations map[string]string
}

// newSecret reads an entry of secretTemplates.
func newSecret(o *params.Object, c *class.Class) *Secret {
	s := &Secret{Field: o.Path("").String(), templates: map[string]*tmpl.Template{}}
	known, named := []string{fieldSecretName, fieldData, fieldLabels, fieldAnnotations}, false
	var of *v1.SecretObject
	for _, field := range o.Fields {
		if field.Name == fieldSecretName {
			s.Name, named = field.Text(), true
			if of = secretObject(c, s.Name); of == nil {
				field.Warn("no usable entry of spec.secretObjects has the secretName %q, so nothing is rendered", params.Clip(s.Name))
			}
		}
	}
	if !named {
		o.Required(fieldSecretName, known)
	}
	for _, field := range o.Fields {
		switch field.Name {
		case fieldSecretName:
		case fieldData:
			s.Data = s.texts(field, utilvalidation.IsConfigMapKey, func(key string) bool {
				return of != nil && slices.ContainsFunc(of.Data, func(d v1.SecretObjectData) bool { return d.Key == key })
			})
		case fieldLabels:
			s.Labels = s.texts(field, utilvalidation.IsQualifiedName, func(key string) bool { return of != nil && has(of.Labels, key) })
		case fieldAnnotations:
			s.Annotations = s.texts(field, func(key string) []string { return utilvalidation.IsQualifiedName(strings.ToLower(key)) },
				func(key string) bool { return of != nil && has(of.Annotations, key) })
		default:
			field.Unknown(known)
		}
	}
	return s
}

func secretObject(c *class.Class, name string) *v1.SecretObject {
	i := slices.IndexFunc(c.SecretObjects, func(o v1.SecretObject) bool { return o.SecretName == name })
	if i < 0 {
		return nil
	}
	return &c.SecretObjects[i]
}

func has(m map[string]string, key string) bool {
	_, ok := m[key]
	return ok
}

// texts reads a map of keys to templates, and compiles them. wrong returns what is wrong with a
// key, and taken reports whether secretObjects has a value for it.
func (s *Secret) texts(field params.Field, wrong func(key string) []string, taken func(key string) bool) map[string]string {
	values, out := field.Map(), map[string]string{}
	if len(values) > maxSecretTexts {
		field.Invalid(fmt.Sprintf("has %d templates, more than %d", len(values), maxSecretTexts))
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		text, isText := values[key].(string)
		at := fmt.Sprintf("the key %q", params.Clip(key))
		if bad := wrong(key); len(bad) > 0 {
			field.Invalid(at + " cannot be used: " + strings.Join(bad, "; "))
			continue
		}
		template, bad := tmpl.Compile(text)
		switch {
		case !isText:
			field.Invalid(at + " must have a text: put it in quotes")
		case taken(key):
			field.Invalid(at + " has a value in spec.secretObjects too")
		case bad != nil:
			field.Invalid(fmt.Sprintf("the template of %s: %s", at, bad))
		default:
			out[key], s.templates[text] = text, template
		}
	}
	return out
}

// secrets reads the list.
func secrets(set *params.Set, c *class.Class) map[string]*Secret {
	out, count := map[string]*Secret{}, 0
	listed := set.Objects(class.SecretTemplatesKey)
	for i := range listed {
		s := newSecret(&listed[i], c)
		if first := out[s.Name]; first != nil {
			listed[i].Forbid(fieldSecretName, "says the same as "+first.Field+"."+fieldSecretName)
			continue
		}
		out[s.Name] = s
		if count += len(s.Data) + len(s.Labels) + len(s.Annotations); count > maxSecretTexts {
			set.Invalid(class.SecretTemplatesKey, fmt.Sprintf("has more than %d templates", maxSecretTexts))
			break
		}
	}
	return out
}

// SecretRenderer renders the templates of all Secrets of a class for one payload. The zero value has
// none.
type SecretRenderer struct {
	class    *class.Class
	secrets  map[string]*Secret
	files    map[string]string
	versions string
	size     int64
	charge   *budget.Charge
	limits   tmpl.Limits // of all templates together
}

// Secrets prepares the rendering of the class's secretTemplates for one payload. It charges the
// owner for the memory until Close.
//
// Templates of data have the volume's files by their paths. Templates of labels and annotations do
// not: users who may list the metadata of Secrets may not read Secrets, and the API server does not
// encrypt metadata everywhere. These templates have only what is no secret and is the same for all
// pods and nodes.
func (d *Prepared) Secrets(files []provider.File, versions []provider.Version, o budget.Owner) (*SecretRenderer, error) {
	s := &SecretRenderer{class: d.class, secrets: d.lists.Secrets, limits: tmpl.DefaultLimits()}
	if len(s.secrets) == 0 {
		return s, nil
	}
	byID := map[string]string{}
	for _, v := range versions {
		byID[v.ID] = v.Version
	}
	text, err := json.Marshal(byID)
	if err != nil {
		return nil, fmt.Errorf("encoding versions: %w", err)
	}
	s.versions = string(text)
	if s.files, s.size, s.charge, err = d.values(files, o); err != nil {
		return nil, fmt.Errorf("rendering spec.parameters.%s: %w", class.SecretTemplatesKey, err)
	}
	return s, nil
}

// Close ends the charge.
func (s *SecretRenderer) Close() { s.charge.Release() }

// Of returns the templates of a Secret; nil if it has none.
func (s *SecretRenderer) Of(secretName string) *Secret { return s.secrets[secretName] }

// Render renders a Secret's templates, and checks labels and annotations as the API server does.
func (s *SecretRenderer) Render(t *Secret) (*SecretParts, error) {
	parts := &SecretParts{Data: map[string][]byte{}}
	for _, key := range slices.Sorted(maps.Keys(t.Data)) {
		value, err := s.render(t.templates[t.Data[key]], s.files)
		if err != nil {
			return nil, fmt.Errorf("rendering %s.%s[%s]: %w", t.Field, fieldData, key, reasoned(err))
		}
		parts.Data[key] = value
	}
	var err error
	if parts.Labels, err = s.metadata(t, fieldLabels, t.Labels, utilvalidation.IsValidLabelValue); err != nil {
		return nil, err
	}
	parts.Annotations, err = s.metadata(t, fieldAnnotations, t.Annotations, func(value string) (bad []string) {
		if !utf8.ValidString(value) {
			bad = append(bad, "must be UTF-8")
		}
		return bad
	})
	if err != nil {
		return nil, err
	}
	all := maps.Clone(parts.Annotations)
	if o := secretObject(s.class, t.Name); o != nil {
		maps.Copy(all, o.Annotations)
	}
	if err := validation.ValidateAnnotationsSize(all); err != nil {
		return nil, fault.New(fault.InvalidClass, "%s.%s: %w", t.Field, fieldAnnotations, err)
	}
	return parts, nil
}

// metadata renders labels or annotations.
func (s *SecretRenderer) metadata(t *Secret, name string, texts map[string]string, wrong func(value string) []string) (map[string]string, error) {
	out := map[string]string{}
	values := map[string]string{"class": s.class.Name, "namespace": s.class.Namespace, "secretName": t.Name, "versions": s.versions}
	for _, key := range slices.Sorted(maps.Keys(texts)) {
		value, err := s.render(t.templates[texts[key]], values)
		at := fmt.Sprintf("%s.%s[%s]", t.Field, name, key)
		if err != nil {
			return nil, fault.New(fault.InvalidClass, "rendering %s: %w", at, err).
				WithHint("templates of labels and annotations have class, namespace, secretName and versions, and no contents of files: metadata is no place for secrets")
		}
		if bad := wrong(string(value)); len(bad) > 0 {
			return nil, fault.New(fault.InvalidClass, "%s: what is rendered cannot be used: %s", at, strings.Join(bad, "; "))
		}
		out[key] = string(value)
	}
	return out, nil
}

func (s *SecretRenderer) render(t *tmpl.Template, values map[string]string) ([]byte, error) {
	s.limits.Reserve = func(n int64) error { return s.charge.Resize(s.size + n) }
	out, err := t.Render(values, &s.limits)
	if err != nil {
		return nil, err
	}
	s.size += int64(len(out))
	return out, s.charge.Resize(s.size)
}
