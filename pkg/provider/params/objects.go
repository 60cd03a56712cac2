package params

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/class"
)

const (
	maxObjects = 1000
	maxList    = class.MaxParameters
	// maxMarks bounds what the YAML parser allocates for the list, to about 15 MiB.
	maxMarks = 40_000
	// maxNodes and maxBytes bound the list with its aliases and merges expanded. A list without
	// them cannot reach either.
	maxNodes = 50_000
	maxBytes = 2 * maxList
)

// Object is one item of the list of objects.
type Object struct {
	// Index is the position in the list.
	Index  int
	Fields []Field

	set  *Set
	path *field.Path
	line int
	left *left
}

// Field is one key of an object.
type Field struct {
	Name string

	object *Object
	node   *yaml.Node
	line   int
}

// Objects reads the list in a parameter. It reports items that it cannot read as errors and leaves
// them out of the result.
func (s *Set) Objects(key string) []Object {
	path := s.Field(key)
	root, err := parseYAML(s.values[key])
	switch {
	case err != nil:
		s.fail(path, "", err.Error())
	case root == nil, root.Kind == yaml.SequenceNode && len(root.Content) == 0:
		s.add(field.Required(path, "a YAML list of at least one object"))
	case root.Kind != yaml.SequenceNode:
		s.fail(path, "", fmt.Sprintf("line %d: must be a YAML list of objects, each beginning with \"- \", not %s", root.Line, class.KindOf(root)))
	case len(root.Content) > maxObjects:
		s.add(field.TooMany(path, len(root.Content), maxObjects))
	default:
		return s.objects(path, root)
	}
	return nil
}

func (s *Set) objects(path *field.Path, root *yaml.Node) []Object {
	l := &left{maxNodes, maxBytes}
	s.listed = l
	list := make([]Object, 0, len(root.Content))
	for i, n := range root.Content {
		n = class.Resolve(n)
		o := Object{Index: i, set: s, path: path.Index(i), line: n.Line, left: l}
		if n.Kind != yaml.MappingNode {
			s.fail(o.path, "", fmt.Sprintf("line %d: must be a map of fields, not %s", n.Line, class.KindOf(n)))
			continue
		}
		err := o.read(n)
		if err != nil {
			s.fail(o.path, "", err.Error())
		}
		switch {
		case errors.Is(err, class.ErrNested):
			return nil
		case err == nil:
			list = append(list, o)
		}
	}
	return list
}

func (o *Object) read(n *yaml.Node) error {
	entries, err := class.Entries(n, o.left.take)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := o.left.take(e.Value); err != nil {
			return err
		}
		if e.Value.ShortTag() != "!!null" { // "secretKey:" without a value counts as absent
			o.Fields = append(o.Fields, Field{Name: e.Key, object: o, node: e.Value, line: e.Where.Line})
		}
	}
	return nil
}

// Path is the path of one of the object's fields, or of the object itself.
func (o *Object) Path(name string) *field.Path {
	if name == "" {
		return o.path
	}
	return o.path.Child(Clip(name))
}

// Required reports a missing field, and which unknown field may be meant for it.
func (o *Object) Required(name string, known []string) {
	var unknown []string
	for _, f := range o.Fields {
		if !slices.Contains(known, f.Name) && len(unknown) < maxMistakes {
			unknown = append(unknown, f.Name)
		}
	}
	detail := fmt.Sprintf("of the object at line %d", o.line)
	if !o.set.warnedEnough() {
		if like := class.Near(name, unknown); like != "" {
			detail += fmt.Sprintf("; it has %q, which is none of its fields: write %s", like, name)
		}
	}
	o.set.add(field.Required(o.Path(name), detail))
}

// Forbid reports a field that cannot be combined with the others.
func (o *Object) Forbid(name, detail string) {
	o.set.add(field.Forbidden(o.Path(name), detail))
}

// Warn reports a mistake that does not stop the class from working.
func (o *Object) Warn(name, format string, args ...any) {
	o.set.Warn(o.Path(name), format, args...)
}

// Unknown warns of a field that is not among the known ones.
func (f Field) Unknown(known []string) {
	if f.object.set.warnedEnough() {
		return // finding a similar name takes time
	}
	if !f.object.set.suspect(f.object.Path(f.Name), f.Name, known, fmt.Sprintf(" (line %d)", f.line)) {
		f.object.set.Warn(f.object.Path(f.Name), "unknown, so ignored (line %d)", f.line)
	}
}

// Warn adds a warning that names the field.
func (f Field) Warn(format string, args ...any) {
	f.object.Warn(f.Name, "line %d: %s", f.line, fmt.Sprintf(format, args...))
}

// Invalid reports what is wrong with the field's value.
func (f Field) Invalid(detail string) {
	shown := ""
	if f.node.Kind == yaml.ScalarNode {
		shown = f.node.Value
	}
	f.object.set.fail(f.object.Path(f.Name), shown, fmt.Sprintf("line %d: %s", f.line, detail))
}

// InvalidAt is Invalid for what is wrong in a line of the field's text. Of a
// literal block that line can be told, and else only the field's.
func (f Field) InvalidAt(line int, detail string) {
	if f.node.Kind == yaml.ScalarNode && f.node.Style&yaml.LiteralStyle != 0 {
		f.line += line
	}
	f.Invalid(detail)
}

// Text reads a scalar as it is written: templates of manifests leave out the quotes of numbers,
// booleans and dates.
func (f Field) Text() string {
	text, _ := f.IsText()
	return text
}

// IsText is Text that distinguishes "" from a value that is not text.
func (f Field) IsText() (text string, is bool) {
	if f.node.Kind != yaml.ScalarNode {
		f.Invalid("must be text, not " + class.KindOf(f.node))
		return "", false
	}
	return f.node.Value, true
}

// FileName reads a path within the volume.
func (f Field) FileName() string {
	name, is := f.IsText()
	if !is {
		return ""
	}
	if err := atomicdir.ValidatePath(name); err != nil {
		f.Invalid("must be a relative path within the volume: " + reason(err))
		return ""
	}
	return name
}

func reason(err error) string {
	if p, ok := err.(*atomicdir.PathError); ok { //nolint:errorlint // ValidatePath returns it bare
		return "it " + p.Reason
	}
	return err.Error()
}

const modeWanted = "must be a file mode from 0001 to 0777, in octal such as 0640 or 0o640, or in decimal such as 416"

// Mode reads a file mode: 0640, 0o640 or decimal 416. Zero is the default.
func (f Field) Mode() fs.FileMode {
	base, digits := 10, f.node.Value
	if rest, ok := strings.CutPrefix(digits, "0o"); ok {
		base, digits = 8, rest
	} else if strings.HasPrefix(digits, "0") {
		base = 8
	}
	mode, err := strconv.ParseUint(digits, base, 32)
	switch {
	case f.node.Kind != yaml.ScalarNode:
		f.Invalid(modeWanted + ", not " + class.KindOf(f.node))
	case err != nil || mode > 0o777:
		f.Invalid(modeWanted)
	default:
		return fs.FileMode(mode)
	}
	return 0
}

// Bool reads true or false.
func (f Field) Bool() bool {
	b, err := strconv.ParseBool(f.node.Value)
	if f.node.Kind != yaml.ScalarNode || err != nil {
		f.Invalid("must be true or false")
	}
	return b
}

// Number reads a whole number from least to most.
func (f Field) Number(least, most int64) int64 {
	n, err := strconv.ParseInt(f.node.Value, 10, 64)
	if f.node.Kind != yaml.ScalarNode || err != nil || n < least || n > most {
		f.Invalid(fmt.Sprintf("must be a whole number from %d to %d", least, most))
		return 0
	}
	return n
}

// Interval reads a refreshInterval, zero for an invalid one.
func (f Field) Interval() time.Duration {
	d, wrong := class.ParseInterval(f.node.Value)
	if f.node.Kind != yaml.ScalarNode || wrong != "" {
		f.Invalid(cmp.Or(wrong, "must be a duration such as 30s, not "+class.KindOf(f.node)))
		return 0
	}
	return d
}

// Encoding reads how the value is encoded in the store.
func (f Field) Encoding() Encoding {
	switch e := Encoding(strings.ToLower(f.Text())); e {
	case Plain, Base64, Hex:
		return e
	case "utf8", "":
	default:
		f.Invalid("must be utf-8, base64 or hex")
	}
	return Plain
}

// Map reads a map of arguments, as encoding/json decodes it, but with numbers as they are written.
func (f Field) Map() map[string]any {
	if f.node.Kind != yaml.MappingNode {
		f.Invalid("must be a map of arguments, not " + class.KindOf(f.node))
		return nil
	}
	v, err := toJSON(f.node, 0, f.object.left)
	if err != nil {
		f.Invalid(err.Error())
		return nil
	}
	m, _ := v.(map[string]any)
	return m
}
