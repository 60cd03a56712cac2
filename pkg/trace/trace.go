// Package trace records the steps of a publish, a refresh and a release, and the
// requests to a store, as OpenTelemetry spans. The pipeline and the providers use
// only this package of OpenTelemetry.
//
// A span has identifiers, codes and times, and no text of a class, no token, and
// nothing that a store has said. The reason of a failure is that of package fault;
// the text is in the log.
//
// Without a Tracer this package does nothing, and allocates nothing. With one, a span
// costs one allocation and those of its attributes: the spans of OpenTelemetry's SDK,
// which may have events and links and are kept until they are sent, took a third of
// all that it costs to show what the driver does.
package trace

import (
	"context"
	"encoding/binary"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

// Tracer begins the spans of pieces of work. A nil Tracer begins none.
type Tracer struct {
	begin      trace.Tracer
	propagator propagation.TextMapPropagator
	ended      func(*Ended)
}

// New makes a Tracer. The first span of a piece of work gets its identifiers from
// begin, which decides whether the work is sampled; that span itself is not used. The
// propagator writes the contexts of spans for the stores, and reads those of callers.
// ended receives every sampled span when it ends. It must not block, and must not keep
// the span.
func New(begin trace.Tracer, by propagation.TextMapPropagator, ended func(*Ended)) *Tracer {
	return &Tracer{begin, by, ended}
}

// spanKey is the context key of the span that other spans begin below.
type spanKey struct{}

func spanOf(ctx context.Context) *span {
	s, _ := ctx.Value(spanKey{}).(*span)
	return s
}

// Work describes a publish, a refresh or a release.
type Work struct {
	PodNamespace, PodName, PodUID string
	// Volume is the volume's id, Class the name of the SecretProviderClass.
	Volume, Class string
}

// Begin starts the span of a piece of work, below the span that the caller of the
// driver has named in the metadata of the gRPC call, if there is one. The caller of
// Begin must end it.
func (t *Tracer) Begin(ctx context.Context, name string, w Work) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	ctx = t.propagator.Extract(ctx, incoming{ctx})
	_, first := t.begin.Start(ctx, name)
	s := &span{tracer: t, Ended: Ended{Context: first.SpanContext(), Parent: trace.SpanContextFromContext(ctx), Name: name, Kind: trace.SpanKindInternal, Start: time.Now()}}
	if s.Context.IsSampled() {
		s.Attributes = append(make([]attribute.KeyValue, 0, 8), // with those of Result
			attribute.String(KeyPodUID, w.PodUID), attribute.String(KeyPodName, w.PodName), attribute.String(KeyPodNamespace, w.PodNamespace),
			attribute.String(KeyVolume, w.Volume), attribute.String(KeyClass, w.Class),
		)
	}
	return context.WithValue(ctx, spanKey{}, s), Span{s}
}

// Step starts the span of a part of the work that has this context. The caller must
// end it.
func Step(ctx context.Context, name string) (context.Context, Span) {
	return child(ctx, name, trace.SpanKindInternal)
}

// Request starts the span of one request to a store or a plugin. The caller must
// end it.
func Request(ctx context.Context, name string) (context.Context, Span) {
	return child(ctx, name, trace.SpanKindClient)
}

func child(ctx context.Context, name string, kind trace.SpanKind) (context.Context, Span) {
	parent := spanOf(ctx)
	if parent == nil || !parent.Context.IsSampled() {
		return ctx, Span{}
	}
	s := &span{tracer: parent.tracer, Ended: Ended{Context: parent.Context.WithSpanID(newID()), Parent: parent.Context, Name: name, Kind: kind, Start: time.Now()}}
	return context.WithValue(ctx, spanKey{}, s), Span{s}
}

// newID returns a random identifier. An identifier of zeros is none.
func newID() (id trace.SpanID) {
	binary.NativeEndian.PutUint64(id[:], max(rand.Uint64(), 1)) //nolint:gosec // it is no secret
	return id
}

// ToHTTP writes the trace, if there is one, to the header of a request.
func ToHTTP(ctx context.Context, header http.Header) {
	spanOf(ctx).inject(ctx, propagation.HeaderCarrier(header))
}

// ToGRPC adds the trace, if there is one, to the metadata of gRPC calls with the
// context.
func ToGRPC(ctx context.Context) context.Context {
	s := spanOf(ctx)
	if s == nil {
		return ctx
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	md = md.Copy()
	s.inject(ctx, carrier(md))
	return metadata.NewOutgoingContext(ctx, md)
}

// incoming is the metadata of a call for a propagator, which copies only what it reads.
type incoming struct{ ctx context.Context } //nolint:containedctx // it is the call's

// Get implements propagation.TextMapCarrier.
func (c incoming) Get(key string) string {
	if values := metadata.ValueFromIncomingContext(c.ctx, key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Set implements propagation.TextMapCarrier: nobody writes to a call that came in.
func (incoming) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (c incoming) Keys() []string {
	md, _ := metadata.FromIncomingContext(c.ctx)
	return slices.Collect(maps.Keys(md))
}

// carrier gives a propagator the metadata of a gRPC call.
type carrier metadata.MD

// Get implements propagation.TextMapCarrier.
func (c carrier) Get(key string) string {
	if values := metadata.MD(c).Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Set implements propagation.TextMapCarrier.
func (c carrier) Set(key, value string) { metadata.MD(c).Set(key, value) }

// Keys implements propagation.TextMapCarrier.
func (c carrier) Keys() []string { return slices.Collect(maps.Keys(c)) }
