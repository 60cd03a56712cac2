package printable_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/mayfly-csi/mayfly/pkg/printable"
)

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"":                  "",
		"permission denied": "permission denied",
		"a\nb\tc":           `a\u000ab\u0009c`,
		"\x1b[31mred":       `\u001b[31mred`,
		"\u202egpj.exe":     `\u202egpj.exe`,
		"\u009b31m":         `\u009b31m`,
		"Grüße 世界":          "Grüße 世界",
		"bad \xff byte":     "bad \ufffd byte",
		"0123456789012345":  "0123456789012345",
		"01234567890123456": "0123456789012345...",
		"012345678901234é":  "012345678901234...",
	} {
		if got := printable.Text(in, max(16, len("permission denied"), len(want)-3)); strings.HasSuffix(want, "...") {
			if got = printable.Text(in, 16); got != want {
				t.Errorf("%q: %q, want %q", in, got, want)
			}
		} else if got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add("a\x1b]0;title\a", 8)
	f.Add("\xe4\xb8", 1)
	f.Fuzz(func(t *testing.T, s string, most int) {
		most = min(max(most, 0), 1<<10)
		got := printable.Text(s, most)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q gives %q", s, got)
		}
		if len(got) > 10*most+3 {
			t.Errorf("%d bytes of %d", len(got), most)
		}
	})
}
