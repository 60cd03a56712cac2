package tmpl

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf8"
)

// functions returns all functions of templates. Names and the order of arguments are those of Go's
// text/template and of the sprig library, if one of them has the function.
func (m *meter) functions() map[string]any {
	f := map[string]any{"call": func(...any) (string, error) { return "", wrong("call", "there is nothing to call") }}
	for _, more := range []map[string]any{builtins(), lookup{m}.functions(), arithmetic{m}.functions(), texts{m}.functions()} {
		maps.Copy(f, more)
	}
	return f
}

// texts returns the functions that make texts.
type texts struct{ *meter }

func (m texts) functions() map[string]any {
	f := map[string]any{
		"fail": m.fail, "toString": m.simple("toString", 1, same),

		"replace": m.replace, "repeat": m.repeat, "join": m.join, "splitList": m.splitList, "indent": m.indent, "nindent": m.nindent,
		"trunc": m.trunc, "print": m.print, "println": m.println, "printf": m.printf,

		"contains":  m.test("contains", strings.Contains),
		"hasPrefix": m.test("hasPrefix", strings.HasPrefix), "hasSuffix": m.test("hasSuffix", strings.HasSuffix),
		"trimPrefix": m.cut("trimPrefix", strings.TrimPrefix), "trimSuffix": m.cut("trimSuffix", strings.TrimSuffix),
		"trimAll": m.cut("trimAll", strings.Trim),

		"toJson": m.encode("toJson", writeJSON), "toYaml": m.encode("toYaml", writeYAML), "toToml": m.encode("toToml", writeTOML),
	}
	for name, s := range simples() {
		f[name] = m.simple(name, s.growth, s.do)
	}
	return f
}

// simple is a function of one text.
type simple struct {
	growth int64 // the most bytes that one byte can become
	do     func(string) (string, string)
}

// pure returns a function that accepts every text.
func pure(f func(string) string) func(string) (string, string) {
	return func(s string) (string, string) { return f(s), "" }
}

func same(s string) (string, string) { return s, "" }

// simples returns the functions of one text. Their second result says what is wrong with the text,
// without the text.
func simples() map[string]simple {
	return map[string]simple{
		"trim": {1, pure(strings.TrimSpace)}, "upper": {3, pure(strings.ToUpper)}, "lower": {3, pure(strings.ToLower)},
		"b64enc": {2, pure(func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) })}, "b64dec": {1, decodeBase64},
		"sha256sum": {1, pure(func(s string) string { sum := sha256.Sum256([]byte(s)); return hex.EncodeToString(sum[:]) })},
		"html":      {6, pure(htmlText)}, "js": {6, pure(jsText)}, "urlquery": {3, pure(url.QueryEscape)},
		"urlUserinfo": {3, pure(userinfo)}, "urlPath": {3, pure(url.PathEscape)},
		"dotenv": {2, dotenv}, "properties": {6, properties}, "pgpass": {2, pgpass}, "ini": {2, ini}, "shellQuote": {5, shellQuote},
	}
}

func userinfo(s string) string {
	return strings.TrimPrefix(url.UserPassword("", s).String(), ":")
}

func decodeBase64(s string) (string, string) {
	out, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s))
	if err != nil {
		return "", "the text is not base64 (standard alphabet, with padding)"
	}
	return string(out), ""
}

func (m texts) simple(name string, growth int64, do func(string) (string, string)) func(any) (string, error) {
	return func(v any) (string, error) {
		s, err := text(name, v)
		if err != nil {
			return "", err
		}
		if err := m.work(len(s), growth*int64(len(s))); err != nil {
			return "", err
		}
		out, bad := do(s)
		if bad != "" {
			return "", wrong(name, "%s", bad)
		}
		return out, m.made(len(out))
	}
}

// test returns a function of a part and a text.
func (m texts) test(name string, do func(s, part string) bool) func(part, s any) (bool, error) {
	return func(part, s any) (bool, error) {
		list, err := m.arguments(name, part, s)
		return err == nil && do(list[1], list[0]), err
	}
}

// cut returns a function that removes a part from a text.
func (m texts) cut(name string, do func(s, part string) string) func(part, s any) (string, error) {
	return func(part, s any) (string, error) {
		list, err := m.arguments(name, part, s)
		if err != nil {
			return "", err
		}
		if err := m.work(len(list[0])*min(len(list[1]), 1<<10), 0); err != nil { // of trimAll
			return "", err
		}
		return do(list[1], list[0]), nil
	}
}

// arguments returns the arguments of a function as texts.
func (m texts) arguments(name string, args ...any) ([]string, error) {
	list, size := make([]string, len(args)), 0
	for i, arg := range args {
		s, err := text(name, arg)
		if err != nil {
			return nil, err
		}
		list[i], size = s, size+len(s)
	}
	return list, m.work(size, 0)
}

// text returns a value as a template writes it.
func text(name string, v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		return strconv.FormatBool(v), nil
	case int:
		return strconv.Itoa(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case byte:
		return strconv.Itoa(int(v)), nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	}
	return "", wrong(name, "it needs a text, a number or a boolean, not %s", kindOf(v))
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "nothing (null)"
	case map[string]any:
		return "a map: take one of its keys, or write toJson"
	case []any:
		return "a list: take one of its elements, or write join or toJson"
	}
	return "a value of another kind"
}

func (m texts) replace(old, with, s any) (string, error) {
	list, err := m.arguments("replace", old, with, s)
	if err != nil {
		return "", err
	}
	n := strings.Count(list[2], list[0])
	if err := m.work(2*len(list[2]), int64(len(list[2]))+int64(n)*int64(len(list[1]))); err != nil {
		return "", err
	}
	out := strings.ReplaceAll(list[2], list[0], list[1])
	return out, m.made(len(out))
}

func (m texts) repeat(times, s any) (string, error) {
	list, err := m.arguments("repeat", s)
	if err != nil {
		return "", err
	}
	n, err := atoi(times)
	switch {
	case err != nil:
		return "", err
	case n <= 0 || list[0] == "":
		return "", nil
	case int64(n) > m.limits.Bytes:
		n = int(m.limits.Bytes) + 1
	}
	if err := m.work(0, int64(n)*int64(len(list[0]))); err != nil {
		return "", err
	}
	out := strings.Repeat(list[0], n)
	return out, m.made(len(out))
}

func (m texts) join(sep, list any) (string, error) {
	items, ok := list.([]any)
	if !ok {
		return "", wrong("join", "the second argument must be a list")
	}
	all, err := m.arguments("join", append([]any{sep}, items...)...)
	if err != nil {
		return "", err
	}
	size := int64(len(items)) * int64(len(all[0]))
	for _, s := range all[1:] {
		size += int64(len(s))
	}
	if err := m.work(len(items)*bytesPerStep, size); err != nil {
		return "", err
	}
	out := strings.Join(all[1:], all[0])
	return out, m.made(len(out))
}

// listItem is the approximate memory of an element of a list, or of a key of a map, without its
// content.
const listItem = 64

func (m texts) splitList(sep, s any) ([]any, error) {
	list, err := m.arguments("splitList", sep, s)
	if err != nil {
		return nil, err
	}
	n := strings.Count(list[1], list[0]) + 1
	if err := m.work(len(list[1])+n*bytesPerStep, int64(n)*listItem); err != nil {
		return nil, err
	}
	parts := strings.Split(list[1], list[0])
	out := make([]any, len(parts))
	for i, p := range parts {
		out[i] = p
	}
	return out, m.made(n * listItem)
}

func (m texts) indent(spaces, s any) (string, error) {
	n, err := atoi(spaces)
	if err == nil && (n < 0 || n > 1000) {
		err = wrong("indent", "the number of spaces must be from 0 to 1000")
	}
	if err != nil {
		return "", err
	}
	list, err := m.arguments("indent", s)
	if err != nil {
		return "", err
	}
	pad := strings.Repeat(" ", n)
	out, err := m.replace("\n", "\n"+pad, list[0])
	return pad + out, err
}

func (m texts) nindent(spaces, s any) (string, error) {
	out, err := m.indent(spaces, s)
	return "\n" + out, err
}

// trunc returns the first bytes of a text or, for a negative number, the last. It does not cut a
// character.
func (m texts) trunc(length, s any) (string, error) {
	list, err := m.arguments("trunc", s)
	if err != nil {
		return "", err
	}
	n, err := atoi(length)
	out := list[0]
	switch {
	case err != nil:
		return "", err
	case n >= 0 && n < len(out):
		for n > 0 && !utf8.RuneStart(out[n]) {
			n--
		}
		return out[:n], nil
	case n < 0 && -n < len(out):
		at := len(out) + n
		for at < len(out) && !utf8.RuneStart(out[at]) {
			at++
		}
		return out[at:], nil
	}
	return out, nil
}

func (m texts) print(args ...any) (string, error)   { return m.printed("print", "", "", args) }
func (m texts) println(args ...any) (string, error) { return m.printed("println", " ", "\n", args) }

func (m texts) printed(name, sep, end string, args []any) (string, error) {
	list, err := m.arguments(name, args...)
	if err != nil {
		return "", err
	}
	size := int64(len(list) + 1)
	for _, s := range list {
		size += int64(len(s))
	}
	if err := m.work(0, size); err != nil {
		return "", err
	}
	out := strings.Join(list, sep) + end
	return out, m.made(len(out))
}

// Real files need no widths of more than three digits, and none from arguments.
const (
	maxWidth    = 999
	printGrowth = 12 // %+q of a byte with flags
)

// printf is that of package fmt, for texts and numbers.
func (m texts) printf(format any, args ...any) (string, error) {
	f, err := text("printf", format)
	if err != nil {
		return "", err
	}
	largest, quotes := int64(0), strings.Contains(f, "%!")
	for i, arg := range args {
		s, err := text("printf", arg)
		if err != nil {
			return "", err
		}
		if n, ok := arg.(json.Number); ok {
			args[i] = n.String()
		}
		largest, quotes = max(largest, int64(len(s))), quotes || strings.Contains(s, "%!")
	}
	verbs, digits := int64(0), 0
	for i := range len(f) {
		switch c := f[i]; {
		case c == '*':
			return "", wrong("printf", "a width or precision must be written as a number")
		case c >= '0' && c <= '9':
			if digits++; digits > len(strconv.Itoa(maxWidth)) && verbs > 0 {
				return "", wrong("printf", "a width or precision may be %d at most", maxWidth)
			}
			continue
		case c == '%':
			verbs++
		}
		digits = 0
	}
	if err := m.work(len(f)+int64Int(verbs*largest), int64(len(f))+verbs*(2*maxWidth+printGrowth*largest)); err != nil {
		return "", err
	}
	out := fmt.Sprintf(f, args...)
	if !quotes && strings.Contains(out, "%!") {
		return "", wrong("printf", "the format does not fit its arguments")
	}
	return out, m.made(len(out))
}

func int64Int(n int64) int { return int(min(n, math.MaxInt32)) }

// fail ends the rendering. It does not repeat the template's text, which may contain values.
func (m texts) fail(any) (string, error) {
	return "", wrong("fail", "the template refuses what it was given")
}
