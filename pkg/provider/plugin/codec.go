package plugin

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/mayfly-csi/mayfly/pkg/budget"
)

// maxParts bounds the files, and the versions, of one answer. An empty file takes two bytes on the
// wire and a hundred times that as a message: without a bound a small answer could take all of the
// driver's memory.
const maxParts = 10_000

// codec is gRPC's own for protobuf messages, but counts the entries of an answer before it decodes
// it.
type codec struct {
	encoding.CodecV2
	// charge is for the answer, as bytes and as a message; nil refuses nothing.
	charge *budget.Charge
	// refused is the budget's error, which gRPC would turn into a text.
	refused error
}

func newCodec(charge *budget.Charge) *codec {
	return &codec{CodecV2: encoding.GetCodecV2(proto.Name), charge: charge}
}

// Unmarshal implements encoding.CodecV2.
func (c *codec) Unmarshal(data mem.BufferSlice, v any) error {
	if err := c.charge.Resize(2 * int64(data.Len())); err != nil {
		c.refused = err
		return err
	}
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	if err := countParts(b.ReadOnlyData()); err != nil {
		return err
	}
	return c.CodecV2.Unmarshal(mem.BufferSlice{b}, v)
}

// countParts refuses a message in which a field occurs too often. It checks the outermost message
// alone: no field inside those of an answer may occur more than once.
func countParts(b []byte) error {
	counts := map[protowire.Number]int{}
	for len(b) > 0 {
		field, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("reading a field: %w", protowire.ParseError(n))
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(field, kind, b); n < 0 {
			return fmt.Errorf("reading field %d: %w", field, protowire.ParseError(n))
		}
		b = b[n:]
		if counts[field]++; counts[field] > maxParts {
			return fmt.Errorf("field %d occurs more than %d times", field, maxParts)
		}
		if len(counts) > maxFields {
			return fmt.Errorf("it has more than %d different fields", maxFields)
		}
	}
	return nil
}

// maxFields is far above the number of fields in the protocol, so that answers of a later version
// can still be decoded.
const maxFields = 64
