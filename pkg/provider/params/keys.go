package params

import (
	"errors"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mayfly-csi/mayfly/pkg/atomicdir"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// The fields of an object in the list of every store, besides those of Access: what is taken of the
// store's answer.
const (
	fieldKey      = "secretKey"
	fieldKeys     = "secretKeys"
	fieldEncoding = "encoding"
	fieldOptional = "optional"
)

// EveryKey is what secretKeys has for all keys of a secret.
const EveryKey = "*"

// ObjectFields are the fields that the methods of Object read, in the objects of every store.
func ObjectFields() []string {
	return append(AccessFields(), fieldKey, fieldKeys, fieldEncoding, fieldOptional)
}

// Take is what an object takes of the store's answer: the value of a key for one file, or each key
// for a file of its own.
type Take struct {
	// File is the file's name; with Every the directory of the files, "" for the volume itself.
	File string
	// Key is the key or a path to it, as Pick reads it; empty for the whole answer.
	Key string
	// Every takes all keys of the answer, each for the file of its name, but Except.
	Every  bool
	Except []string
}

// FileName returns the objectName or fileName of an object of Vault or Akeyless, as it is written;
// empty for none.
func (o *Object) FileName() string {
	for _, name := range []string{"objectName", "fileName"} {
		if f := o.field(name); f != nil {
			return f.Text()
		}
	}
	return ""
}

// HasKeys reports whether the object has secretKeys. Then its name is that of a directory, and it
// needs none.
func (o *Object) HasKeys() bool { return o.Has(fieldKeys) }

// Has reports whether the object has a field.
func (o *Object) Has(name string) bool { return o.field(name) != nil }

// HasKey reports whether the object takes keys, and not the whole answer.
func (o *Object) HasKey() bool {
	key := o.field(fieldKey)
	return o.HasKeys() || key != nil && key.node.Value != ""
}

func (o *Object) field(name string) *Field {
	for i := range o.Fields {
		if o.Fields[i].Name == name {
			return &o.Fields[i]
		}
	}
	return nil
}

// Encoding reads how the value is encoded in the store.
func (o *Object) Encoding() Encoding {
	if f := o.field(fieldEncoding); f != nil {
		return f.Encoding()
	}
	return Plain
}

// Optional reads whether the store may lack the object.
func (o *Object) Optional() bool {
	f := o.field(fieldOptional)
	return f != nil && f.Bool()
}

// Takes reads secretKey and secretKeys of an object that has a name, which may be empty.
func (o *Object) Takes(name string) []Take {
	key, keys := o.field(fieldKey), o.field(fieldKeys)
	switch {
	case keys == nil && key == nil:
		return []Take{{File: name}}
	case keys == nil:
		return []Take{{File: name, Key: key.Text()}}
	case key != nil:
		o.Forbid(fieldKeys, "does not go with secretKey: keep one of them")
	}
	t := taking{field: *keys, dir: name}
	t.read()
	if t.every {
		t.list = append(t.list, Take{File: name, Every: true, Except: t.named})
	}
	return t.list
}

// taking reads secretKeys.
type taking struct {
	field Field
	dir   string
	list  []Take
	named []string
	every bool
}

const keysWanted = `must be "*" for all keys, a list of keys, or a map of keys to file names`

func (t *taking) read() {
	f, n := t.field, t.field.node
	var err error
	switch {
	case n.Kind == yaml.ScalarNode && n.Value == EveryKey:
		t.every = true
	case n.Kind == yaml.SequenceNode:
		err = t.readList(n)
	case n.Kind == yaml.MappingNode:
		err = t.readMap(n)
	case n.Kind == yaml.ScalarNode:
		err = errors.New(keysWanted)
	default:
		err = errors.New(keysWanted + ", not " + class.KindOf(n))
	}
	switch {
	case err != nil:
		f.Invalid(err.Error())
	case !t.every && len(t.list) == 0:
		f.Invalid(keysWanted + ": it has none")
	}
}

func (t *taking) readList(n *yaml.Node) error {
	for _, item := range n.Content {
		item = class.Resolve(item)
		if err := t.field.object.left.take(item); err != nil {
			return err
		}
		if item.Kind != yaml.ScalarNode {
			return fmt.Errorf("must be a list of keys, and has %s", class.KindOf(item))
		}
		if err := t.add(item.Value, item.Value); err != nil {
			return err
		}
	}
	return nil
}

func (t *taking) readMap(n *yaml.Node) error {
	left := t.field.object.left
	entries, err := class.Entries(n, left.take)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := left.take(e.Value); err != nil {
			return err
		}
		if e.Value.Kind != yaml.ScalarNode {
			return fmt.Errorf("the key %q must have a file name, not %s", Clip(e.Key), class.KindOf(e.Value))
		}
		if err := t.add(e.Key, e.Value.Value); err != nil {
			return err
		}
	}
	return nil
}

// add takes a key for a file.
func (t *taking) add(key, file string) error {
	switch {
	case key == EveryKey && file == EveryKey:
		t.every = true
		return nil
	case key == EveryKey:
		return fmt.Errorf(`%q stands for all other keys and their own names: write "*": "*"`, EveryKey)
	case key == "":
		return errors.New("a key is empty")
	}
	name, err := JoinName(t.dir, file)
	if err != nil {
		return fmt.Errorf("the key %q: the file name %q cannot be used: %w", Clip(key), Clip(file), err)
	}
	t.list, t.named = append(t.list, Take{File: name, Key: key}), append(t.named, key)
	if steps := splitKey(key); len(steps) == 1 && steps[0] != key { // it is written with backslashes
		t.named = append(t.named, steps[0])
	}
	return nil
}

// JoinName returns the name of a file in a directory of the volume, "" for the volume itself. The
// error says why it cannot be one.
func JoinName(dir, name string) (string, error) {
	if err := atomicdir.ValidatePath(name); err != nil {
		return "", errors.New(reason(err))
	}
	if dir == "" {
		return name, nil
	}
	name = dir + "/" + name
	if err := atomicdir.ValidatePath(name); err != nil {
		return "", errors.New(reason(err))
	}
	return name, nil
}

// maxValues is how many keys a secret may have of which each is a file.
const maxValues = 1000

// Values returns the value of each key of a JSON object, as it is written. Anything but an object
// has none.
func Values(raw []byte) (map[string][]byte, error) {
	values := map[string][]byte{}
	members(raw, func(written, value []byte) bool {
		values[unquote(written)] = value
		return len(values) <= maxValues
	})
	if len(values) > maxValues {
		return nil, fault.New(fault.TooLarge, "it has more than %d keys", maxValues).
			WithHint("name the keys that the files are made of in the object's secretKeys")
	}
	return values, nil
}

// splitKey returns the steps of a path through nested values. They are separated by dots; a dot that
// belongs to a key is written \. and a backslash before it, or before another, \\.
func splitKey(path string) []string {
	var steps []string
	var step strings.Builder
	for i := 0; i < len(path); i++ {
		c := path[i]
		switch {
		case c == '\\' && i+1 < len(path) && (path[i+1] == '.' || path[i+1] == '\\'):
			i++
			step.WriteByte(path[i])
		case c == '.':
			steps = append(steps, step.String())
			step.Reset()
		default:
			step.WriteByte(c)
		}
	}
	return append(steps, step.String())
}
