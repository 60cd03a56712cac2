package printable_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/mayfly-csi/mayfly/pkg/printable"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestText(t *testing.T) {
	for _, c := range []struct {
		in   string
		most int
		want string
	}{
		{"", 10, ""},
		{"permission denied", 100, "permission denied"},
		{"a\nb\tc", 100, `a\u000ab\u0009c`},
		{"\x1b[31mred", 100, `\u001b[31mred`},
		{"\u202egpj.exe", 100, `\u202egpj.exe`},
		{"\u009b31m", 100, `\u009b31m`},
		{"Grüße 世界", 100, "Grüße 世界"},
		{"bad \xff byte", 100, "bad \ufffd byte"},
		{"0123456789", 10, "0123456789"},
		{"01234567890", 10, "0123456789..."},
		{"012345678é", 10, "012345678..."},
		{"01234567é89", 10, "01234567é..."},
		{"0123456世", 9, "0123456..."},
	} {
		testkit.Equal(t, c.in, printable.Text(c.in, c.most), c.want)
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
