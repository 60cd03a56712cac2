package tmpl

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// writer writes a value in one of the formats. bad says what is wrong with the value.
type writer func(out *strings.Builder, v any) (bad string)

// maxEncodedDepth bounds how deeply a written value is nested.
const maxEncodedDepth = 100

// encode returns a function that writes a value of any kind.
func (m texts) encode(name string, write writer) func(any) (string, error) {
	return func(v any) (string, error) {
		size, depth := sizeOf(v, 0)
		if depth > maxEncodedDepth {
			return "", wrong(name, "the value is nested deeper than %d", maxEncodedDepth)
		}
		const growth = 6 // of a control character
		if err := m.work(growth*size, growth*int64(size)); err != nil {
			return "", err
		}
		var out strings.Builder
		if bad := write(&out, v); bad != "" {
			return "", wrong(name, "%s", bad)
		}
		return out.String(), m.made(out.Len())
	}
}

// sizeOf returns the approximate size of a written value in bytes, indented, and its depth.
func sizeOf(v any, above int) (size, depth int) {
	if above > maxEncodedDepth {
		return 0, above
	}
	each := func(key string, inner any) {
		s, d := sizeOf(inner, above+1)
		size, depth = size+s+len(key)+2*above+8, max(depth, d)
	}
	switch v := v.(type) {
	case string:
		return len(v) + 2, above
	case map[string]any:
		for key, inner := range v {
			each(key, inner)
		}
	case []any:
		for _, inner := range v {
			each("", inner)
		}
	default:
		return 24, above
	}
	return size + 2, max(depth, above)
}

// quoted returns a text in double quotes, in a form that JSON, YAML and TOML all read.
func quoted(s string) string {
	var out strings.Builder
	out.WriteByte('"')
	short := map[rune]string{'"': `\"`, '\\': `\\`, '\b': `\b`, '\t': `\t`, '\n': `\n`, '\f': `\f`, '\r': `\r`}
	for _, r := range s {
		escaped, known := short[r]
		switch {
		case known:
			out.WriteString(escaped)
		case r < ' ', r >= 0x7f && r < 0xa0, r == 0x2028, r == 0x2029, r == 0xfeff, r == 0xfffe, r == 0xffff:
			fmt.Fprintf(&out, `\u%04x`, r)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}

// scalar writes a value that is neither a map nor a list.
func scalar(out *strings.Builder, v any, null string) (bad string) {
	switch v := v.(type) {
	case string:
		if !utf8.ValidString(v) {
			return notText
		}
		out.WriteString(quoted(v))
	case nil:
		if null == "" {
			return "the format has no null"
		}
		out.WriteString(null)
	case json.Number:
		out.WriteString(v.String())
	default:
		s, err := text("", v)
		if err != nil {
			return "the format has no such value"
		}
		out.WriteString(s)
	}
	return ""
}

// inline says how a format writes maps and lists on one line.
type inline struct {
	between, pair, open, end string
	null                     string
	key                      func(string) string
}

func (f inline) write(out *strings.Builder, v any) (bad string) {
	list := func(open, end string, n int, write func(i int) string) string {
		out.WriteString(open)
		for i := range n {
			if i > 0 {
				out.WriteString(f.between)
			}
			if bad := write(i); bad != "" {
				return bad
			}
		}
		out.WriteString(end)
		return ""
	}
	switch v := v.(type) {
	case map[string]any:
		keys := slices.Sorted(maps.Keys(v))
		return list(f.open, f.end, len(keys), func(i int) string {
			if !utf8.ValidString(keys[i]) {
				return notText
			}
			out.WriteString(f.key(keys[i]) + f.pair)
			return f.write(out, v[keys[i]])
		})
	case []any:
		return list("[", "]", len(v), func(i int) string { return f.write(out, v[i]) })
	}
	return scalar(out, v, f.null)
}

func writeJSON(out *strings.Builder, v any) string {
	return inline{",", ":", "{", "}", "null", quoted}.write(out, v)
}

func writeTOML(out *strings.Builder, v any) string {
	return inline{", ", " = ", "{ ", " }", "", quoted}.write(out, v)
}

// plainKey matches keys that YAML reads as text without quotes.
var plainKey = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_./-]*$`)

func keyOfYAML(key string) string {
	switch strings.ToLower(key) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null":
	default:
		if plainKey.MatchString(key) {
			return key
		}
	}
	return quoted(key)
}

// writeYAML writes maps and lists as blocks, without a line break at the end, and texts in double
// quotes, so that they fit into any line.
func writeYAML(out *strings.Builder, v any) string {
	if !hasElements(v) {
		return writeJSON(out, v)
	}
	return blockYAML(out, v, "")
}

// blockYAML writes a map or list that has elements.
func blockYAML(out *strings.Builder, v any, pad string) (bad string) {
	item := func(first bool, head string, inner any) string {
		if !first {
			out.WriteString("\n" + pad)
		}
		out.WriteString(head)
		if !hasElements(inner) {
			out.WriteByte(' ')
			return writeJSON(out, inner)
		}
		out.WriteString("\n" + pad + "  ")
		return blockYAML(out, inner, pad+"  ")
	}
	switch v := v.(type) {
	case map[string]any:
		for i, key := range slices.Sorted(maps.Keys(v)) {
			if !utf8.ValidString(key) {
				return notText
			}
			if bad := item(i == 0, keyOfYAML(key)+":", v[key]); bad != "" {
				return bad
			}
		}
	case []any:
		for i, inner := range v {
			if bad := item(i == 0, "-", inner); bad != "" {
				return bad
			}
		}
	}
	return ""
}

func hasElements(v any) bool {
	switch v := v.(type) {
	case map[string]any:
		return len(v) > 0
	case []any:
		return len(v) > 0
	}
	return false
}
