package params

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
)

// Part is the selected keys of a JSON value. It is immutable. Its JSON form is part of the saved
// state.
type Part struct {
	// Taken are the values of the keys: text as it is written, anything else in the form that a
	// file has.
	Taken map[string]json.RawMessage
	// Missing are the selected keys that the value does not have.
	Missing []string `json:",omitempty"`
	// Names lists the keys of the value, if one is missing.
	Names string `json:",omitempty"`
}

// TakePart copies the values of keys, which find returns. room charges the given number of bytes,
// or returns an error. names lists the keys of the value.
func TakePart(keys []string, find func(key string) []byte, names func() string, room func(int64) error) (*Part, error) {
	p := &Part{Taken: make(map[string]json.RawMessage, len(keys))}
	size := int64(0)
	for _, key := range keys {
		raw := find(key)
		if raw == nil {
			p.Missing = append(p.Missing, key)
			continue
		}
		if err := room(size + 2*DecodedSize(raw)); err != nil {
			return nil, err
		}
		raw, err := inForm(raw)
		if err != nil {
			return nil, err
		}
		p.Taken[key] = raw
		size += int64(len(raw))
	}
	if len(p.Missing) > 0 {
		p.Names = names()
	}
	return p, nil
}

func inForm(raw []byte) ([]byte, error) {
	if IsText(raw) {
		return bytes.Clone(raw), nil
	}
	out, err := Plain.FileOf(raw)
	return bytes.Clone(out), err // without the buffer's spare capacity
}

// Has reports whether all of the keys are selected.
func (p *Part) Has(keys []string) bool {
	return !slices.ContainsFunc(keys, func(key string) bool {
		_, ok := p.Taken[key]
		return !ok && !slices.Contains(p.Missing, key)
	})
}

// Keys returns the selected keys.
func (p *Part) Keys() []string {
	if p == nil {
		return nil
	}
	return slices.AppendSeq(slices.Clone(p.Missing), maps.Keys(p.Taken))
}

// Size is the part's approximate size in memory in bytes.
func (p *Part) Size() int {
	if p == nil {
		return 0
	}
	const base, each = 128, 64
	size := base + len(p.Names)
	for key, raw := range p.Taken {
		size += each + len(key) + len(raw)
	}
	for _, key := range p.Missing {
		size += each + len(key)
	}
	return size
}

// File returns a file's contents for a key; nil if the key is missing.
func (p *Part) File(key string, e Encoding) ([]byte, error) {
	raw := p.Taken[key]
	switch {
	case raw == nil:
		return nil, nil
	case e == Plain && !IsText(raw):
		return raw, nil
	}
	return e.FileOf(raw)
}

// Restore undoes encoding/json's changes to the form of the values.
func (p *Part) Restore() error {
	for key, raw := range p.Taken {
		raw, err := inForm(raw)
		if err != nil {
			return err
		}
		p.Taken[key] = raw
	}
	return nil
}

// maxUnion bounds the keys that classes with the same read select from one answer.
const maxUnion = 1000

// Union returns the keys of a class together with those that other classes selected from the last
// answer, up to maxUnion. So classes that select different keys share one read.
func Union(keys []string, last *Part) []string {
	others := last.Keys()
	if len(others) == 0 || len(keys)+len(others) > maxUnion {
		return keys
	}
	all := append(slices.Clone(keys), others...)
	slices.Sort(all)
	return slices.Compact(all)
}
