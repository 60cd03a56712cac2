package testkit

import (
	"strings"
	"testing"
)

func TestTail(t *testing.T) {
	var x Tail
	for range 3 {
		_, _ = x.Write([]byte(strings.Repeat("a", tailBytes-1) + "b"))
	}
	if got := x.String(); len(got) != tailBytes || !strings.HasSuffix(got, "ab") {
		t.Errorf("%d bytes", len(got))
	}
}
