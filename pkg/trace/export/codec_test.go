package export

import (
	"strings"
	"testing"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestCodec: a message never has the memory of one that is still to be sent, and has
// that of one that was sent.
func TestCodec(t *testing.T) {
	c := newCodec()
	message := func(letter string, size int) *tracepb.ResourceSpans {
		return &tracepb.ResourceSpans{SchemaUrl: strings.Repeat(letter, size)}
	}
	a, b := message("a", 40_000), message("b", 50_000)
	first, second := testkit.Value(c.Marshal(a))(t), testkit.Value(c.Marshal(b))(t)
	same := func(got mem.BufferSlice, want *tracepb.ResourceSpans) {
		t.Helper()
		var m tracepb.ResourceSpans
		testkit.Must(t, proto.Unmarshal(got.Materialize(), &m))
		if !proto.Equal(&m, want) {
			t.Errorf("the message of %d bytes differs", len(want.GetSchemaUrl()))
		}
	}
	same(first, a)
	same(second, b)
	memory := &first[0].ReadOnlyData()[0]
	first.Free()
	short := message("c", 30_000)
	third := testkit.Value(c.Marshal(short))(t)
	same(third, short)
	same(second, b)
	if &third[0].ReadOnlyData()[0] != memory {
		t.Error("the memory of a message that was sent is not used again")
	}
	third.Free()
	same(testkit.Value(c.Marshal(message("d", 60_000)))(t), message("d", 60_000))
	if _, err := c.Marshal(1); err == nil {
		t.Error("a number can be encoded")
	}
}
