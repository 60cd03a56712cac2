package tmpl

import (
	"cmp"
	"encoding/json"
	"strconv"
	"strings"
)

// arithmetic returns the functions that calculate and compare.
type arithmetic struct{ *meter }

func (m arithmetic) functions() map[string]any {
	return map[string]any{
		"atoi": atoi, "int": atoi, "add": m.add, "sub": m.sub, "eq": m.eq, "ne": m.ne,
		"lt": m.order("lt", func(c int) bool { return c < 0 }), "le": m.order("le", func(c int) bool { return c <= 0 }),
		"gt": m.order("gt", func(c int) bool { return c > 0 }), "ge": m.order("ge", func(c int) bool { return c >= 0 }),
	}
}

func atoi(v any) (int, error) {
	s, err := text("atoi", v)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		return 0, wrong("atoi", "the value is no whole number")
	}
	return n, nil
}

func (m arithmetic) add(numbers ...any) (int, error) {
	sum := 0
	for _, v := range numbers {
		n, err := atoi(v)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, m.spend(callSteps+len(numbers), 0)
}

func (m arithmetic) sub(a, b any) (int, error) {
	x, err := atoi(a)
	if err != nil {
		return 0, err
	}
	y, err := atoi(b)
	return x - y, cmp.Or(err, m.spend(callSteps, 0))
}

// number returns a value as a number, unless it is a text.
func number(v any) (float64, bool) {
	if n, ok := whole(v); ok {
		return float64(n), true
	}
	switch v := v.(type) {
	case float64:
		return v, true
	case json.Number:
		f, err := v.Float64()
		return f, err == nil
	}
	return 0, false
}

// whole returns a value as a whole number.
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
func (m arithmetic) compare(name string, a, b any) (int, error) {
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

func (m arithmetic) eq(a any, others ...any) (bool, error) {
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

func (m arithmetic) ne(a, b any) (bool, error) {
	same, err := m.eq(a, b)
	return !same, err
}

func (m arithmetic) order(name string, is func(c int) bool) func(a, b any) (bool, error) {
	return func(a, b any) (bool, error) {
		c, err := m.compare(name, a, b)
		return err == nil && is(c), err
	}
}

// numbers converts JSON numbers to whole numbers and fractions, if the result is written in the
// same way.
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
