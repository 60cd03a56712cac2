package export

import (
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// codec is gRPC's own for protobuf, but keeps the memory of a message for the next one.
// gRPC's takes it from a pool that each garbage collection empties, and which has no
// size between 32 KB and 1 MB.
type codec struct {
	encoding.CodecV2

	buffer atomic.Pointer[[]byte]
}

func newCodec() *codec { return &codec{CodecV2: encoding.GetCodecV2(protocodec.Name)} }

// Marshal implements encoding.CodecV2.
func (c *codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("encoding a message: %T is not of protobuf", v)
	}
	b := c.Get(proto.Size(m))
	text, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*b)[:0], m)
	if err != nil {
		return nil, fmt.Errorf("encoding a message: %w", err)
	}
	*b = text
	return mem.BufferSlice{mem.NewBuffer(b, c)}, nil
}

// Get implements mem.BufferPool.
func (c *codec) Get(size int) *[]byte {
	b := c.buffer.Swap(nil)
	if b == nil || cap(*b) < size {
		b = new(make([]byte, size))
	}
	*b = (*b)[:size]
	return b
}

// Put implements mem.BufferPool. gRPC calls it once nothing of the message is left to
// send, which can be later than the call's end.
func (c *codec) Put(b *[]byte) { c.buffer.Store(b) }
