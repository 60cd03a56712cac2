package pages

import (
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestSession(t *testing.T) {
	work := t.TempDir()
	s, err := NewSession(t.TempDir(), work, []string{"PATH=/usr/bin:/bin"})
	testkit.Must(t, err)
	for _, tt := range []struct {
		text, want string
		fails      bool
	}{
		{text: "A='b \"c\"'\nmkdir -p d && cd d\n"},
		{text: "echo \"$A\"; echo \"${PWD##*/}\"; cat - <<EOF\n$A\nEOF\n", want: "b \"c\"\nd\nb \"c\"\n"},
		{text: "echo one; false; echo two\n", want: "one\n", fails: true},
		{text: "false | true\n", fails: true},
		{text: "A=lost; exit 3\n", fails: true},
		{text: "if true; then\n", fails: true},
		{text: "echo $A >&2\n", want: "b \"c\"\n"},
	} {
		got, err := s.Run(t.Context(), tt.text)
		if (err != nil) != tt.fails || tt.want != "" && got != tt.want {
			t.Errorf("%q: %v, printed %q, want %q", tt.text, err, got, tt.want)
		}
	}
}
