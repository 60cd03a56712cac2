// Package printable makes other people's text fit for a line, a terminal and a
// page.
package printable

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text writes what could end a line, move a terminal's cursor or turn the order
// of letters as an escape. It takes at most so many bytes of the text.
func Text(s string, most int) string {
	cut := ""
	if len(s) > most {
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s, cut = s[:most], "..."
	}
	if isPlain(s) {
		return s + cut
	}
	var b strings.Builder
	for _, r := range strings.ToValidUTF8(s, "\ufffd") {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String() + cut
}

// isPlain spares most text the copy.
func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
