package akeyless

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// What is kept of a value. Of a small one that is all, so that classes which
// take other keys of it need not ask again: of a credential, which only a new
// one could replace, up to 64 KiB. Of a larger one it is what the objects take.
const (
	keptWhole = 2 << 10
	heldWhole = 64 << 10
)

// value is the JSON of an item's value, or a part of it. It is never changed.
type value struct {
	Body json.RawMessage `json:",omitempty"`
	Part *params.Part    `json:",omitempty"` // in which "" is the key of the whole
}

// keep is the value for objects that take some keys of it, with its memory
// apart from the answer's. room tells whether there is memory for so many
// bytes.
func (v value) keep(k kind, keys []string, whole int, room func(int64) error) (value, error) {
	if len(v.Body) <= whole {
		return value{Body: bytes.Clone(v.Body)}, nil
	}
	part, err := params.TakePart(keys, func(key string) []byte {
		if key == "" {
			return v.Body
		}
		return pick(k, v.Body, key)
	}, func() string { return keysOf(k, v.Body) }, room)
	return value{Part: part}, err
}

// has tells whether the value was looked through for the keys. One that was
// made for other objects is none for these.
func (v value) has(keys []string) bool { return v.Part == nil || v.Part.Has(keys) }

func (v value) size() int64 {
	const base = 384 // with what is known of the answer
	return int64(base + len(v.Body) + v.Part.Size())
}

// kept is about how many bytes the value takes in the state.
func (v value) kept() int64 { return int64(len(v.Body) + v.Part.Size()) }

// sound tells whether the value is one that was kept, and brings it into its
// form.
func (v value) sound() bool {
	if v.Part != nil {
		return v.Part.Restore() == nil
	}
	return json.Valid(v.Body)
}

// contents are what the object's file holds of an item's value.
func (o *object) contents(k kind, v value) (out []byte, err error) {
	names := ""
	switch {
	case v.Part != nil:
		if out, err = v.Part.File(o.key, o.encoding); out == nil {
			names = v.Part.Names
		}
	case o.key == "":
		out, err = o.encoding.FileOf(v.Body)
	default:
		if raw := pick(k, v.Body, o.key); raw != nil {
			out, err = o.encoding.FileOf(raw)
		} else {
			names = keysOf(k, v.Body)
		}
	}
	switch {
	case err != nil:
		what := "the value"
		if o.key != "" {
			what = fmt.Sprintf("the value of %q", o.key)
		}
		return nil, fault.New(fault.InvalidClass, "spec.parameters.objects[%d].encoding: %s of %s is not %s: %w", o.index, what, o.item, o.encoding, err)
	case names != "":
		return nil, fault.New(fault.NotFound, "%s has no key %q%s", o.item, o.key, names)
	}
	return out, nil
}

// pick finds a key in a value; nil where there is none. What is written as
// text may be JSON all the same, and rotated secrets keep theirs a level down
// on some types.
func pick(k kind, raw []byte, key string) []byte {
	for _, level := range levels(k, raw) {
		if v := params.Pick(level, key); v != nil {
			return v
		}
	}
	return nil
}

// levels are the JSON objects to look for keys in, the value itself first.
func levels(k kind, raw []byte) [][]byte {
	first := asObject(raw)
	if first == nil {
		return nil
	}
	list := [][]byte{first}
	if k != rotated {
		return list
	}
	for _, inner := range []string{"payload", "target_value"} {
		if deeper := asObject(params.Member(first, inner)); deeper != nil {
			list = append(list, deeper)
		}
	}
	return list
}

func asObject(raw []byte) []byte {
	if params.IsObject(raw) {
		return raw
	}
	var text string
	if !params.IsText(raw) || json.Unmarshal(raw, &text) != nil || !strings.HasPrefix(strings.TrimSpace(text), "{") {
		return nil
	}
	if inner := []byte(text); json.Valid(inner) {
		return inner
	}
	return nil
}

func keysOf(k kind, raw []byte) string {
	var all []string
	for _, level := range levels(k, raw) {
		all = append(all, params.Keys(level))
	}
	if len(all) == 0 {
		return ": it is no JSON object"
	}
	return "; it has " + strings.Join(all, ", and inside ")
}
