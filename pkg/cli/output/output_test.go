package output

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"unicode"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestPaints(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("there is no terminal to be had:", err)
	}
	defer terminal.Close()
	null := testkit.Value(os.OpenFile(os.DevNull, os.O_WRONLY, 0))(t)
	defer null.Close()
	for _, tc := range []struct {
		name, flag string
		env        map[string]string
		terminal   bool
		want       bool
	}{
		{"a terminal", "auto", nil, true, true},
		{"NO_COLOR", "auto", map[string]string{"NO_COLOR": "1"}, true, false},
		{"an empty NO_COLOR", "auto", map[string]string{"NO_COLOR": "", "TERM": "xterm"}, true, true},
		{"a dumb terminal", "auto", map[string]string{"TERM": "dumb"}, true, false},
		{"a file", "auto", nil, false, false},
		{"always, to a file", "always", map[string]string{"NO_COLOR": "1"}, false, true},
		{"never, on a terminal", "never", nil, true, false},
	} {
		s := Streams{Out: null, Getenv: func(key string) string { return tc.env[key] }}
		if tc.terminal {
			s.Out = terminal
		}
		testkit.Equal(t, tc.name+": paints", (&Flags{Color: tc.flag}).Paints(s), tc.want)
	}
	if (&Flags{Color: "auto"}).Paints(Streams{Out: &bytes.Buffer{}, Getenv: os.Getenv}) {
		t.Error("a buffer has colour")
	}
}

// TestEncodeJSON: JSON means the same to programs and does nothing to terminals.
func TestEncodeJSON(t *testing.T) {
	const hostile = "a<b>\n\x1b[2J\u009b2J\x7f\u202e\u2028\ufeff é ✗ \U000e0041 \U0001f600"
	var b bytes.Buffer
	testkit.Must(t, EncodeJSON(&b, map[string]string{hostile: hostile}))
	for _, r := range b.String() {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%U is written as it is", r)
		}
	}
	var got map[string]string
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || got[hostile] != hostile {
		t.Errorf("%q, %v", got, err)
	}
}
