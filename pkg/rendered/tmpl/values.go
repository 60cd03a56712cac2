package tmpl

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// names are the keys of a map, sorted.
func names[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// secret is the contents of an object, by its file name.
func (m *meter) secret(name string) (any, error) {
	if err := m.work(len(name), 0); err != nil {
		return nil, err
	}
	v, ok := m.values[name]
	if !ok {
		return nil, wrong("secret", "there is no %q%s", params.Clip(name), params.DidYouMean(name, names(m.values)))
	}
	return v, nil
}

// index follows keys of maps and places in lists.
func (m *meter) index(v any, keys ...any) (any, error) {
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
			i, err := m.atoi(key)
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

func (m *meter) get(in any, key string) (any, error) {
	level, ok := in.(map[string]any)
	if !ok {
		return nil, wrong("get", "the first argument must be a map")
	}
	if v, ok := level[key]; ok {
		return v, m.work(len(key), 0)
	}
	return "", m.work(len(key), 0)
}

func (m *meter) hasKey(in any, key string) (bool, error) {
	level, ok := in.(map[string]any)
	if !ok {
		return false, wrong("hasKey", "the first argument must be a map")
	}
	_, has := level[key]
	return has, m.work(len(key), 0)
}

// keys are sorted, so that a file is the same each time.
func (m *meter) keys(in any) ([]any, error) {
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

func (m *meter) first(list any) (any, error) { return m.end("first", list, func(int) int { return 0 }) }
func (m *meter) last(list any) (any, error) {
	return m.end("last", list, func(n int) int { return n - 1 })
}

func (m *meter) end(name string, list any, at func(length int) int) (any, error) {
	items, ok := list.([]any)
	switch {
	case !ok:
		return nil, wrong(name, "the argument must be a list")
	case len(items) == 0:
		return nil, wrong(name, "the list is empty")
	}
	return items[at(len(items))], m.spend(callSteps, 0)
}

func empty(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case bool:
		return !v
	case int:
		return v == 0
	case int64:
		return v == 0
	case float64:
		return v == 0
	case map[string]any:
		return len(v) == 0
	case []any:
		return len(v) == 0
	}
	return false
}

func (m *meter) fallback(instead any, value ...any) (any, error) {
	if err := m.spend(callSteps, 0); err != nil {
		return nil, err
	}
	if len(value) == 0 || empty(value[len(value)-1]) {
		return instead, nil
	}
	return value[len(value)-1], nil
}

func (m *meter) coalesce(values ...any) (any, error) {
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

// number is a value as a number, if it is one and no text.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case byte:
		return float64(v), true
	case float64:
		return v, true
	case json.Number:
		f, err := v.Float64()
		return f, err == nil
	}
	return 0, false
}

// whole is a value as a whole number.
func whole(v any) (int64, bool) {
	switch v := v.(type) {
	case int:
		return int64(v), true
	case int64:
		return v, true
	case byte:
		return int64(v), true
	}
	return 0, false
}

// compare orders two values of one kind.
func (m *meter) compare(name string, a, b any) (int, error) {
	if x, ok := a.(string); ok {
		if y, ok := b.(string); ok {
			return strings.Compare(x, y), m.work(min(len(x), len(y)), 0)
		}
	}
	if x, ok := whole(a); ok {
		if y, ok := whole(b); ok {
			return cmp.Compare(x, y), m.spend(callSteps, 0)
		}
	}
	x, isX := number(a)
	y, isY := number(b)
	if !isX || !isY {
		return 0, wrong(name, "two texts or two numbers can be compared; atoi makes a number of a text")
	}
	return cmp.Compare(x, y), m.spend(callSteps, 0)
}

func (m *meter) eq(a any, others ...any) (bool, error) {
	if len(others) == 0 {
		return false, wrong("eq", "there is nothing to compare with")
	}
	for _, b := range others {
		x, isX := a.(bool)
		y, isY := b.(bool)
		if isX && isY {
			if x == y {
				return true, m.spend(callSteps, 0)
			}
			continue
		}
		c, err := m.compare("eq", a, b)
		if err != nil || c == 0 {
			return err == nil, err
		}
	}
	return false, nil
}

func (m *meter) ne(a, b any) (bool, error) {
	same, err := m.eq(a, b)
	return !same, err
}

func (m *meter) order(name string, is func(c int) bool) func(a, b any) (bool, error) {
	return func(a, b any) (bool, error) {
		c, err := m.compare(name, a, b)
		return err == nil && is(c), err
	}
}

// jsonGrowth is how many bytes of memory one byte of JSON can take: a list of
// digits has two for each element.
const jsonGrowth = 40

func (m *meter) fromJSON(v any) (any, error) {
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

// numbers makes whole numbers and fractions of those that can be written as they
// were.
func numbers(v any, nodes *int) any {
	*nodes++
	switch v := v.(type) {
	case map[string]any:
		for key := range v {
			v[key] = numbers(v[key], nodes)
		}
	case []any:
		for i := range v {
			v[i] = numbers(v[i], nodes)
		}
	case json.Number:
		if n, err := strconv.ParseInt(v.String(), 10, 64); err == nil && strconv.FormatInt(n, 10) == v.String() {
			return n
		}
		if f, err := v.Float64(); err == nil && strconv.FormatFloat(f, 'g', -1, 64) == v.String() {
			return f
		}
	}
	return v
}
