// Package collector is a collector of traces for tests: it receives OTLP over gRPC on loopback,
// decodes it, and stores the spans.
package collector

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"sync"

	collectpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/prototext"
)

// Span is one that was received.
type Span struct {
	// Trace, ID and Parent are in hexadecimal digits; Parent is empty for none.
	Trace, ID, Parent string
	Name              string
	Kind              tracepb.Span_SpanKind
	// Attributes are the span's, printed; About are those of the process.
	Attributes, About map[string]string
	// Failed is the status, Words its description.
	Failed bool
	Words  string
	// Start and End are in nanoseconds since 1970.
	Start, End uint64
}

// Collector is a running server.
type Collector struct {
	collectpb.UnimplementedTraceServiceServer
	// Endpoint is for OTEL_EXPORTER_OTLP_ENDPOINT.
	Endpoint string
	server   *grpc.Server

	mu    sync.Mutex
	spans []Span
	text  strings.Builder
	asked metadata.MD
	hang  chan struct{}
	part  *collectpb.ExportTracePartialSuccess
}

// Start listens on a free port of loopback, or on address where that is not
// empty, HOST:PORT.
func Start(address string) (*Collector, error) {
	c := &Collector{server: grpc.NewServer()}
	collectpb.RegisterTraceServiceServer(c.server, c)
	var err error
	c.Endpoint, err = serve(c.server, address)
	return c, err
}

// serve serves on a free port of loopback, or on address where that is not empty, and returns the
// endpoint.
func serve(s *grpc.Server, address string) (endpoint string, err error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return "", fmt.Errorf("listening as a collector: %w", err)
	}
	go func() { _ = s.Serve(listener) }()
	return "http://" + listener.Addr().String(), nil
}

// Close stops the server and closes every connection.
func (c *Collector) Close() { c.server.Stop() }

// Hang leaves requests without an answer until the func is called.
func (c *Collector) Hang() (release func()) {
	hang := make(chan struct{})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hang = hang
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.hang = nil
		close(hang)
	}
}

// Reject has the following answers say that so many spans of a request are not kept, and why.
func (c *Collector) Reject(spans int64, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.part = &collectpb.ExportTracePartialSuccess{RejectedSpans: spans, ErrorMessage: why}
}

// Export implements the service.
func (c *Collector) Export(ctx context.Context, r *collectpb.ExportTraceServiceRequest) (*collectpb.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	hang := c.hang
	c.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked, _ = metadata.FromIncomingContext(ctx)
	c.text.WriteString(prototext.Format(r))
	for _, of := range r.GetResourceSpans() {
		about := printed(of.GetResource().GetAttributes())
		for _, scope := range of.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				c.spans = append(c.spans, Span{
					Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
					Name: s.GetName(), Kind: s.GetKind(), Attributes: printed(s.GetAttributes()), About: about,
					Failed: s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR, Words: s.GetStatus().GetMessage(),
					Start: s.GetStartTimeUnixNano(), End: s.GetEndTimeUnixNano(),
				})
			}
		}
	}
	return &collectpb.ExportTraceServiceResponse{PartialSuccess: c.part}, nil
}

// Spans are those that came so far.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Span(nil), c.spans...)
}

// Text is everything that was received, for searching.
func (c *Collector) Text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// Header returns a header of the last request.
func (c *Collector) Header(name string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked.Get(name)
}

func printed(attributes []*commonpb.KeyValue) map[string]string {
	all := map[string]string{}
	for _, a := range attributes {
		all[a.GetKey()] = text(a.GetValue())
	}
	return all
}

func text(v *commonpb.AnyValue) string {
	switch v := v.GetValue().(type) {
	case *commonpb.AnyValue_StringValue:
		return v.StringValue
	case *commonpb.AnyValue_BoolValue:
		return fmt.Sprint(v.BoolValue)
	case *commonpb.AnyValue_IntValue:
		return fmt.Sprint(v.IntValue)
	case *commonpb.AnyValue_ArrayValue:
		var parts []string
		for _, x := range v.ArrayValue.GetValues() {
			parts = append(parts, text(x))
		}
		return strings.Join(parts, ",")
	}
	return v.String()
}
