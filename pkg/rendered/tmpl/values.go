package tmpl

import (
	"maps"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// names returns the keys of a map, sorted.
func names[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// lookup returns the functions that find and choose values.
type lookup struct{ *meter }

func (m lookup) functions() map[string]any {
	return map[string]any{
		"secret": m.secret, "index": m.index, "get": m.get, "hasKey": m.hasKey, "keys": m.keys, "first": m.first, "last": m.last,
		"default": m.fallback, "coalesce": m.coalesce, "empty": empty, "ternary": ternary, "fromJson": m.fromJSON,
	}
}

// secret returns the contents of an object, by its file name.
func (m lookup) secret(name string) (any, error) {
	if err := m.work(len(name), 0); err != nil {
		return nil, err
	}
	v, ok := m.values[name]
	if !ok {
		return nil, wrong("secret", "%s", noSuch(name, m.values))
	}
	return v, nil
}

// index follows the keys of maps and the positions in lists.
func (m lookup) index(v any, keys ...any) (any, error) {
	for _, key := range keys {
		switch level := v.(type) {
		case map[string]any:
			name, err := text("index", key)
			if err != nil {
				return nil, err
			}
			if err := m.work(len(name), 0); err != nil {
				return nil, err
			}
			inner, ok := level[name]
			if !ok {
				return nil, wrong("index", "there is no such key")
			}
			v = inner
		case []any:
			i, err := atoi(key)
			if err != nil {
				return nil, err
			}
			if i < 0 || i >= len(level) {
				return nil, wrong("index", "the list has fewer elements")
			}
			v = level[i]
		default:
			return nil, wrong("index", "there is neither a map nor a list to look in")
		}
	}
	return v, m.spend(callSteps, 0)
}

func (m lookup) get(in any, key string) (any, error) {
	level, ok := in.(map[string]any)
	if !ok {
		return nil, wrong("get", "the first argument must be a map")
	}
	if v, ok := level[key]; ok {
		return v, m.work(len(key), 0)
	}
	return "", m.work(len(key), 0)
}

func (m lookup) hasKey(in any, key string) (bool, error) {
	level, ok := in.(map[string]any)
	if !ok {
		return false, wrong("hasKey", "the first argument must be a map")
	}
	_, has := level[key]
	return has, m.work(len(key), 0)
}

// keys returns sorted keys, so that a file is the same each time.
func (m lookup) keys(in any) ([]any, error) {
	level, ok := in.(map[string]any)
	if !ok {
		return nil, wrong("keys", "the argument must be a map")
	}
	if err := m.work(listItem*len(level), int64(listItem*len(level))); err != nil {
		return nil, err
	}
	list := make([]any, 0, len(level))
	for _, key := range slices.Sorted(maps.Keys(level)) {
		list = append(list, key)
	}
	return list, m.made(listItem * len(list))
}

func (m lookup) first(list any) (any, error) { return m.end("first", list, func(int) int { return 0 }) }
func (m lookup) last(list any) (any, error) {
	return m.end("last", list, func(n int) int { return n - 1 })
}

func (m lookup) end(name string, list any, at func(length int) int) (any, error) {
	items, ok := list.([]any)
	switch {
	case !ok:
		return nil, wrong(name, "the argument must be a list")
	case len(items) == 0:
		return nil, wrong(name, "the list is empty")
	}
	return items[at(len(items))], m.spend(callSteps, 0)
}

func empty(v any) bool { return !truth(v) }

func (m lookup) fallback(instead any, value ...any) (any, error) {
	if err := m.spend(callSteps, 0); err != nil {
		return nil, err
	}
	if len(value) == 0 || empty(value[len(value)-1]) {
		return instead, nil
	}
	return value[len(value)-1], nil
}

func (m lookup) coalesce(values ...any) (any, error) {
	for _, v := range values {
		if !empty(v) {
			return v, m.spend(callSteps, 0)
		}
	}
	return "", m.spend(callSteps+len(values), 0)
}

func ternary(yes, no any, which bool) any {
	if which {
		return yes
	}
	return no
}

// jsonGrowth is how many bytes of memory one byte of JSON can become: a list of digits has two
// bytes for each element.
const jsonGrowth = 40

func (m lookup) fromJSON(v any) (any, error) {
	s, ok := v.(string)
	if !ok {
		return nil, wrong("fromJson", "it needs a text")
	}
	if err := m.work(jsonGrowth*len(s), 0); err != nil {
		return nil, err
	}
	var out any
	if err := params.Decode([]byte(s), &out); err != nil {
		return nil, wrong("fromJson", "the text is not JSON")
	}
	nodes := 0
	out = numbers(out, &nodes)
	return out, m.made(len(s) + nodes*listItem)
}
