// Package params reads what a class says to its provider: the parameters, and
// the YAML list of objects in one of them. It collects mistakes instead of
// ending at the first, and names each by its field, as in
// spec.parameters.objects[1].fileName.
package params

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const (
	maxValue = 4096
	// maxMistakes is how many mistakes are told, and how many warnings: a class can
	// hold as many of each as it has letters.
	maxMistakes = 20
)

// Set is the parameters of one class, and what is wrong with them.
type Set struct {
	Errs     field.ErrorList
	Warnings []string
	// Suspects are those of Warnings that name something near to what is known,
	// so that it was probably meant.
	Suspects []string

	more   int // mistakes that are not in Errs
	given  int // bytes of the parameters
	listed *left
	path   *field.Path
	known  Known
	values map[string]string // by key
	names  map[string]string // by key, as the class has it
}

// Known are the keys that a provider takes.
type Known struct {
	Keys []string
	// Names are what classes call a key, of those that are not called by the
	// key itself. What is missing is named by the first.
	Names map[string][]string
	// Long are the keys that may hold more than 4096 bytes and line breaks.
	Long []string
	// Secret are the keys whose values are never shown.
	Secret []string
	// Prefixes are spellings of one provider, the first first: of names that
	// differ in these alone the first counts, with a warning.
	Prefixes []string
	// Foreign says of a name that is not known whose it is; empty for nobody's.
	// It may be nil.
	Foreign func(name string) string
}

// rank is the place of a name's prefix, and what is behind the prefix. A name
// without one comes first: it is the one that all providers know.
func (k Known) rank(name string) (int, string) {
	for i, prefix := range k.Prefixes {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			return i, rest
		}
	}
	return -1, strings.ToUpper(name[:1]) + name[1:]
}

// All are the names that classes may use, sorted.
func (k Known) All() []string { return slices.Sorted(maps.Keys(k.names())) }

// names gives the key by each of its names.
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

// New takes the known keys and warns of the others. An empty value counts as
// not given: a chart that leaves a value open renders "".
func New(raw map[string]string, known Known) *Set {
	s := &Set{path: field.NewPath("spec", "parameters"), known: known, values: map[string]string{}, names: map[string]string{}}
	byName := known.names()
	names := slices.Sorted(maps.Keys(byName))
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		if key, ok := byName[name]; ok {
			s.take(key, name, raw[name])
			continue
		}
		if s.warnedEnough() || class.Near(name, class.OwnKeys()) != "" { // which the class warns of
			continue
		}
		whose := ""
		if known.Foreign != nil {
			whose = known.Foreign(name)
		}
		if s.suspect(s.path.Child(Clip(name)), name, names, "") {
			continue
		}
		s.Warn(s.path.Child(Clip(name)), "unknown, so ignored%s", cmp.Or(whose, DidYouMean(name, names)))
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
			s.Warn(s.path.Child(name), "ignored: it says the same as %s, which comes first", earlier)
			return
		}
		s.add(field.Forbidden(s.path.Child(name), "says the same as "+earlier+", which is set too: keep one of them"))
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

// Field is the path of a parameter, as the class spells it or would.
func (s *Set) Field(key string) *field.Path {
	if name, ok := s.names[key]; ok {
		return s.path.Child(name)
	}
	return s.path.Child(s.known.namesOf(key)[0])
}

// Has tells whether a parameter is given.
func (s *Set) Has(key string) bool { return s.values[key] != "" }

// Get is a parameter's value, or def.
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

// Word reads one of some words.
func (s *Set) Word(key, def string, words ...string) string {
	v := s.Get(key, def)
	if v != "" && !slices.Contains(words, v) {
		s.add(field.NotSupported(s.Field(key), Clip(v), words))
		return def
	}
	return v
}

// Together demands all of the parameters if one is given.
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

// Required notes that a parameter is missing.
func (s *Set) Required(key, detail string) {
	s.add(field.Required(s.Field(key), detail))
}

// Invalid notes what is wrong with a parameter's value.
func (s *Set) Invalid(key, detail string) { s.fail(s.Field(key), s.values[key], detail) }

// InvalidSecret is Invalid for a parameter whose value must not be shown.
func (s *Set) InvalidSecret(key, detail string) { s.fail(s.Field(key), secret.Redacted, detail) }

func (s *Set) fail(path *field.Path, value, detail string) {
	s.add(field.Invalid(path, Clip(value), detail))
}

func (s *Set) add(e *field.Error) {
	if len(s.Errs) == maxMistakes {
		s.more++
		return
	}
	s.Errs = append(s.Errs, e)
}

// Warn notes what the class works without. The first that are too many are
// told as such, and those after them not at all.
func (s *Set) Warn(path *field.Path, format string, args ...any) {
	switch {
	case len(s.Warnings) < maxMistakes:
		s.Warnings = append(s.Warnings, path.String()+": "+fmt.Sprintf(format, args...))
	case !s.warnedEnough():
		s.Warnings = append(s.Warnings, s.path.String()+": there is more to warn of than is told here")
	}
}

// suspect notes a name that is near to a known one; false if it is not.
func (s *Set) suspect(path *field.Path, name string, known []string, at string) bool {
	want := class.Near(name, known)
	if want == "" {
		return false
	}
	s.Warn(path, "unknown%s; did you mean %s?", at, want)
	if len(s.Suspects) < maxMistakes {
		s.Suspects = append(s.Suspects, fmt.Sprintf("%s: unknown%s; did you mean %s?", path, at, want))
	}
	return true
}

func (s *Set) warnedEnough() bool { return len(s.Warnings) > maxMistakes }

// Size is about how much memory takes what is made of the parameters.
func (s *Set) Size() int64 {
	const object = 256 // for each of its fields
	size := s.given
	if l := s.listed; l != nil {
		size += 2*(maxBytes-l.bytes) + object*(maxNodes-l.nodes)
	}
	return int64(size)
}

// Clip keeps a hostile value from filling an error.
func Clip(text string) string { return clipTo(text, 80) }

func clipTo(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}

// DidYouMean words the known key that was probably meant; empty if none is
// near.
func DidYouMean(word string, known []string) string {
	best := closest(word, known)
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// longestWord bounds, in bytes, what is compared.
const longestWord = 64

// closest is the word of a list that differs least; empty if none is near.
func closest(word string, list []string) string {
	best, least := "", len(word)/3+2
	if len(word) > longestWord {
		return ""
	}
	for _, k := range list {
		if len(k) > longestWord {
			continue
		}
		if d := class.Edits(strings.ToLower(word), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}
