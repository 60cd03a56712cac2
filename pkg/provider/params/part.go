package params

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
)

// Part is what is kept of a JSON value of which some keys are wanted. It is
// never changed. Its JSON is part of the state that is kept.
type Part struct {
	// Taken are the values of the keys: text as it is written, and anything
	// else in the form that a file has.
	Taken map[string]json.RawMessage
	// Missing are the keys that were looked for and are not there.
	Missing []string `json:",omitempty"`
	// Names are the keys that there are, where one is missing.
	Names string `json:",omitempty"`
}

// TakePart copies the values of keys as find finds them. room tells whether
// there is memory for so many bytes more. names lists the keys that there are.
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
	return bytes.Clone(out), err // without the room of the buffer
}

// Has tells whether the keys were looked for.
func (p *Part) Has(keys []string) bool {
	return !slices.ContainsFunc(keys, func(key string) bool {
		_, ok := p.Taken[key]
		return !ok && !slices.Contains(p.Missing, key)
	})
}

// Keys are those that were looked for.
func (p *Part) Keys() []string {
	if p == nil {
		return nil
	}
	return slices.AppendSeq(slices.Clone(p.Missing), maps.Keys(p.Taken))
}

// Size is about how many bytes of memory the part takes.
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

// File is what a file holds for a key; nil where it is missing.
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

// Restore undoes what encoding/json did to the form of the values.
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

// mostKeys bounds what the classes that ask the same take of one answer.
const mostKeys = 1000

// Union is what a class takes and, where that is not too much, what the others
// had of the last answer: so that classes which take different parts do not
// each ask again and again.
func Union(keys []string, last *Part) []string {
	others := last.Keys()
	if len(others) == 0 || len(keys)+len(others) > mostKeys {
		return keys
	}
	all := append(slices.Clone(keys), others...)
	slices.Sort(all)
	return slices.Compact(all)
}
