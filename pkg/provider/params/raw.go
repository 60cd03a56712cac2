package params

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The functions below read valid JSON as it is written, without decoding it. An answer can be large
// when only one value is needed, and decoding takes many times its size.

// members calls do for each key of a JSON object, with key and value as they are written, until do
// returns false. Anything but an object has no members.
func members(raw []byte, do func(key, value []byte) bool) {
	at := skipSpace(raw, 0)
	if at >= len(raw) || raw[at] != '{' {
		return
	}
	for at = skipSpace(raw, at+1); at < len(raw) && raw[at] == '"'; at = skipSpace(raw, at+1) {
		end := skipValue(raw, at)
		key := raw[at:end]
		at = skipSpace(raw, end) // the colon
		at = skipSpace(raw, min(at+1, len(raw)))
		end = skipValue(raw, at)
		if !do(key, raw[at:end]) {
			return
		}
		if at = skipSpace(raw, end); at >= len(raw) || raw[at] != ',' {
			return
		}
	}
}

// Member returns the value of a key; nil if there is none. If a key is given twice the last one
// counts, as in encoding/json.
func Member(raw []byte, key string) (found []byte) {
	members(raw, func(k, value []byte) bool {
		if is(k, key) {
			found = value
		}
		return true
	})
	return found
}

// HasKey reports whether of returns true for some key of a JSON object.
func HasKey(raw []byte, of func(key string) bool) (found bool) {
	members(raw, func(k, _ []byte) bool {
		found = of(unquote(k))
		return !found
	})
	return found
}

// Select returns the values of some keys, found in one pass.
func Select(raw []byte, wanted map[string]bool) map[string][]byte {
	found := make(map[string][]byte, len(wanted))
	members(raw, func(k, value []byte) bool {
		key := string(k[1 : len(k)-1])
		if strings.Contains(key, `\`) || !utf8.ValidString(key) {
			key = unquote(k)
		}
		if wanted[key] {
			found[key] = value
		}
		return true
	})
	return found
}

// is compares a key as it is written with key.
func is(written []byte, key string) bool {
	inner := written[1 : len(written)-1]
	if bytes.IndexByte(inner, '\\') < 0 && (string(inner) == key || utf8.Valid(inner)) {
		return string(inner) == key
	}
	return unquote(written) == key
}

// Element returns a value in a JSON list; nil if there is none.
func Element(raw []byte, index int) []byte {
	at := skipSpace(raw, 0)
	if at >= len(raw) || raw[at] != '[' || index < 0 {
		return nil
	}
	for at = skipSpace(raw, at+1); at < len(raw) && raw[at] != ']'; at = skipSpace(raw, at+1) {
		end := skipValue(raw, at)
		if index == 0 {
			return raw[at:end]
		}
		index--
		if at = skipSpace(raw, end); at >= len(raw) || raw[at] != ',' {
			return nil
		}
	}
	return nil
}

// Pick finds a key in a JSON object: the key itself, or else a path through nested objects and
// lists, such as db.users.0.name or tls.ca\.crt. It is nil if there is none.
func Pick(raw []byte, key string) []byte {
	if v := Member(raw, key); v != nil {
		return v
	}
	if !strings.Contains(key, ".") {
		return nil
	}
	for _, step := range splitKey(key) {
		if begins(raw, '[') {
			i, err := strconv.Atoi(step)
			if err != nil {
				return nil
			}
			raw = Element(raw, i)
		} else {
			raw = Member(raw, step)
		}
		if raw == nil {
			return nil
		}
	}
	return raw
}

// IsText reports whether a JSON value is a string.
func IsText(raw []byte) bool { return begins(raw, '"') }

// IsObject reports whether a JSON value is an object.
func IsObject(raw []byte) bool { return begins(raw, '{') }

func begins(raw []byte, mark byte) bool {
	at := skipSpace(raw, 0)
	return at < len(raw) && raw[at] == mark
}

// maxNamed is how many keys an error lists, and maxCounted how many it counts.
const maxNamed, maxCounted = 20, 10_000

// Keys lists the keys of a JSON object, which are not secret, for an error.
func Keys(raw []byte) string {
	var first []string // sorted
	more, seen := 0, 0
	members(raw, func(written, _ []byte) bool {
		if seen++; seen > maxCounted {
			return false
		}
		key := strconv.Quote(Clip(unquote(written)))
		at, twice := slices.BinarySearch(first, key)
		switch {
		case twice:
		case len(first) < maxNamed:
			first = slices.Insert(first, at, key)
		case at < maxNamed:
			first = slices.Insert(first[:maxNamed-1], at, key)
			more++
		default:
			more++
		}
		return true
	})
	switch {
	case len(first) == 0:
		return "none"
	case more > 0:
		return strings.Join(first, ", ") + " and " + strconv.Itoa(more) + " more"
	}
	return strings.Join(first, ", ")
}

// DecodedSize is a JSON value's approximate size in memory, decoded, in bytes.
func DecodedSize(raw []byte) int64 {
	const each = 64 // for an element of a list or object
	if IsText(raw) {
		return int64(len(raw))
	}
	marks := 1
	for _, b := range raw {
		switch b {
		case ',', ':', '[', '{':
			marks++
		}
	}
	return int64(len(raw) + each*marks)
}

// FileOf returns a file's contents for a JSON value: a string decoded, anything else as compact
// JSON.
func (e Encoding) FileOf(raw []byte) ([]byte, error) {
	var value any
	if err := Decode(raw, &value); err != nil {
		return nil, err
	}
	return e.File(value)
}

func unquote(raw []byte) string {
	var s string
	_ = json.Unmarshal(raw, &s) // it is valid
	return s
}

func skipSpace(raw []byte, at int) int {
	for at < len(raw) && (raw[at] == ' ' || raw[at] == '\t' || raw[at] == '\n' || raw[at] == '\r') {
		at++
	}
	return at
}

// skipValue returns the end of the value that begins at at.
func skipValue(raw []byte, at int) int {
	depth := 0
	for at < len(raw) {
		switch raw[at] {
		case '"':
			at = skipString(raw, at)
			if depth == 0 {
				return at
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth <= 0 {
				if depth < 0 { // the end of the enclosing value ends a number or word
					return at
				}
				return at + 1
			}
		case ',', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return at
			}
		}
		at++
	}
	return at
}

func skipString(raw []byte, at int) int {
	for at++; at < len(raw); at++ {
		switch raw[at] {
		case '\\':
			at++
		case '"':
			return at + 1
		}
	}
	return len(raw)
}
