package collector

import (
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Counter is a collector that only counts spans by their names. It decodes nothing else, so that
// it takes little of the processor from a driver that is measured beside it.
type Counter struct {
	// Endpoint is for OTEL_EXPORTER_OTLP_ENDPOINT.
	Endpoint string
	server   *grpc.Server

	mu    sync.Mutex
	count map[string]int
	err   error
}

// StartCounter listens on a free port of loopback.
func StartCounter() (*Counter, error) {
	c := &Counter{count: map[string]int{}}
	c.server = grpc.NewServer(grpc.ForceServerCodecV2(raw{}), grpc.UnknownServiceHandler(c.export))
	var err error
	c.Endpoint, err = serve(c.server, "")
	return c, err
}

// Close stops the server and closes every connection.
func (c *Counter) Close() { c.server.Stop() }

// Spans returns how many spans with the name came so far; for an empty name, how many in all. It
// returns an error once a request was no OTLP.
func (c *Counter) Spans(name string) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count[name], c.err
}

func (c *Counter) export(_ any, stream grpc.ServerStream) error {
	var request []byte
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	c.mu.Lock()
	err := fields(request, 1, func(resourceSpans []byte) error {
		return fields(resourceSpans, 2, func(scopeSpans []byte) error {
			return fields(scopeSpans, 2, func(span []byte) error {
				c.count[""]++
				return fields(span, 5, func(name []byte) error {
					c.count[string(name)]++
					return nil
				})
			})
		})
	})
	if err != nil {
		c.err = err
	}
	c.mu.Unlock()
	return stream.SendMsg(&[]byte{}) // a response without any field
}

// fields calls do for each field of a message that has the number and has bytes.
func fields(message []byte, number protowire.Number, do func([]byte) error) error {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return fmt.Errorf("reading spans: %w", protowire.ParseError(size))
		}
		value := message[size:]
		end := protowire.ConsumeFieldValue(n, kind, value)
		if end < 0 {
			return fmt.Errorf("reading spans: %w", protowire.ParseError(end))
		}
		if n == number && kind == protowire.BytesType {
			text, _ := protowire.ConsumeBytes(value)
			if err := do(text); err != nil {
				return err
			}
		}
		message = value[end:]
	}
	return nil
}

// raw gives messages as they are, in a *[]byte.
type raw struct{}

// Name implements encoding.CodecV2.
func (raw) Name() string { return "proto" }

// Marshal implements encoding.CodecV2.
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil //nolint:forcetypeassert // export gives it
}

// Unmarshal implements encoding.CodecV2.
func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize() //nolint:forcetypeassert // export gives it
	return nil
}
