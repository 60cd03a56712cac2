// Package params reads a class's settings for its provider: the parameters, and the YAML list of
// objects in one of them. It collects all mistakes, and names each by its field, such as
// spec.parameters.objects[1].fileName.
package params

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/printable"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// maxValue bounds a value in bytes.
const maxValue = 4096

// Set is the parameters of one class, and their mistakes.
type Set struct {
	Mistakes

	given  int // bytes of the parameters
	listed *left
	known  Known
	values map[string]string // by key
	names  map[string]string // by key, as the class spells it
}

// Known are the keys that a provider has.
type Known struct {
	Keys []string
	// Names are the names that classes may use for a key, if not only the key itself. Errors about
	// a missing parameter use the first.
	Names map[string][]string
	// Long are the keys whose values may have more than 4096 bytes, and line breaks.
	Long []string
	// Secret are the keys whose values are never shown.
	Secret []string
	// Prefixes are one provider's spellings of a prefix. If a class has names that differ in the
	// prefix alone, the first prefix wins, with a warning.
	Prefixes []string
	// Foreign returns the owner of an unknown name; empty if it has none. It may be nil.
	Foreign func(name string) string
}

// rank returns the position of a name's prefix, and the name without it. A name without a prefix
// comes first, because all providers know it.
func (k Known) rank(name string) (int, string) {
	for i, prefix := range k.Prefixes {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return i, rest
		}
	}
	return -1, strings.ToUpper(name[:1]) + name[1:]
}

// All returns the names that classes may use, sorted.
func (k Known) All() []string { return slices.Sorted(maps.Keys(k.names())) }

// names maps each name to its key.
func (k Known) names() map[string]string {
	byName := map[string]string{}
	for _, key := range k.Keys {
		for _, name := range k.namesOf(key) {
			byName[name] = key
		}
	}
	return byName
}

func (k Known) namesOf(key string) []string {
	if names := k.Names[key]; len(names) > 0 {
		return names
	}
	return []string{key}
}

// New sets the known keys and warns of the others. An empty value counts as not given: a chart
// template with an unset value renders "".
func New(raw map[string]string, known Known) *Set {
	s := &Set{known: known, values: map[string]string{}, names: map[string]string{}}
	byName := known.names()
	names := slices.Sorted(maps.Keys(byName))
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		if key, ok := byName[name]; ok {
			s.take(key, name, raw[name])
			continue
		}
		if s.warnedEnough() || class.Near(name, class.OwnKeys()) != "" { // package class warns of it
			continue
		}
		whose := ""
		if known.Foreign != nil {
			whose = known.Foreign(name)
		}
		if s.suspect(root.Child(Clip(name)), name, names, "") {
			continue
		}
		s.Warn(root.Child(Clip(name)), "unknown, so ignored%s", whose)
	}
	return s
}

func (s *Set) take(key, name, value string) {
	if value == "" {
		return
	}
	if earlier, twice := s.names[key]; twice {
		before, of := s.known.rank(earlier)
		now, other := s.known.rank(name)
		if of == other && before != now {
			if now < before {
				earlier, name = name, earlier
				delete(s.names, key)
				s.take(key, earlier, value)
			}
			s.Warn(root.Child(name), "ignored: it says the same as %s, which comes first", earlier)
			return
		}
		s.add(field.Forbidden(root.Child(name), "says the same as "+earlier+", which is set too: keep one of them"))
		return
	}
	s.names[key] = name
	s.given += len(value)
	if !slices.Contains(s.known.Long, key) && (len(value) > maxValue || endpoint.HasControl(value)) {
		if slices.Contains(s.known.Secret, key) || strings.Contains(value, "@") { // may be an address with a password
			value = secret.Redacted
		}
		s.fail(s.Field(key), value, fmt.Sprintf("must be at most %d bytes without control characters", maxValue))
		return
	}
	s.values[key] = value
}

// Field is the path of a parameter, in the class's spelling if the class has it.
func (s *Set) Field(key string) *field.Path {
	if name, ok := s.names[key]; ok {
		return root.Child(name)
	}
	return root.Child(s.known.namesOf(key)[0])
}

// Has reports whether a parameter is given.
func (s *Set) Has(key string) bool { return s.values[key] != "" }

// Get returns a parameter's value, or def.
func (s *Set) Get(key, def string) string {
	if v, ok := s.values[key]; ok {
		return v
	}
	return def
}

// Bool reads "true" or "false".
func (s *Set) Bool(key string, def bool) bool {
	text, ok := s.values[key]
	if !ok {
		return def
	}
	b, err := strconv.ParseBool(text)
	if err != nil {
		s.Invalid(key, `must be "true" or "false"`)
	}
	return b
}

// Word reads one of the given words.
func (s *Set) Word(key, def string, words ...string) string {
	v := s.Get(key, def)
	if v != "" && !slices.Contains(words, v) {
		s.add(field.NotSupported(s.Field(key), Clip(v), words))
		return def
	}
	return v
}

// Together requires all of the parameters if one is given.
func (s *Set) Together(why string, keys ...string) {
	if !slices.ContainsFunc(keys, s.Has) {
		return
	}
	for _, key := range keys {
		if !s.Has(key) {
			s.Required(key, why)
		}
	}
}

// Required reports a missing parameter.
func (s *Set) Required(key, detail string) {
	s.add(field.Required(s.Field(key), detail))
}

// Invalid reports what is wrong with a parameter's value.
func (s *Set) Invalid(key, detail string) { s.fail(s.Field(key), s.values[key], detail) }

// InvalidSecret is Invalid for a parameter whose value must not be shown.
func (s *Set) InvalidSecret(key, detail string) { s.fail(s.Field(key), secret.Redacted, detail) }

// Size is the approximate size in memory of the parsed parameters in bytes.
func (s *Set) Size() int64 {
	const object = 256 // for each of its fields
	size := s.given
	if l := s.listed; l != nil {
		size += 2*(maxBytes-l.bytes) + object*(maxNodes-l.nodes)
	}
	return int64(size)
}

// Clip shortens a hostile value, so that it does not fill an error.
func Clip(text string) string { return printable.Cut(text, 80) }
