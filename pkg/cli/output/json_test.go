package output

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

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
