// Package trace records the steps of a publish, a refresh and a release, and the
// requests to a store, as OpenTelemetry spans. The pipeline and the providers use
// only this package of OpenTelemetry.
//
// A span has identifiers, codes and times, and no text of a class, no token, and
// nothing that a store has said. The reason of a failure is that of package fault;
// the text is in the log.
//
// Without a Tracer this package does nothing, and allocates nothing. With one, a span
// costs two allocations: itself, and what there is to say of it; one of Record costs none.
// The spans of OpenTelemetry's SDK, which may have events and links and are kept until
// they are sent, took a third of all that it costs to show what the driver does.
package trace

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"go.opentelemetry.io/otel/baggage"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

// Sampler decides whether a piece of work is recorded, of which the context has the
// caller's span, and what trace state its spans have.
type Sampler func(ctx context.Context, id trace.TraceID, name string) (bool, trace.TraceState)

// Tracer begins the spans of pieces of work. A nil Tracer begins none.
type Tracer struct {
	sampler Sampler
	callers propagation.TextMapPropagator
	// context and baggage say what a store is told of.
	context, baggage bool
	ended            func(Ended)
}

// New makes a Tracer. The sampler decides which pieces of work are recorded. The
// propagator reads the spans of callers, and decides what stores are told of: the
// trace, baggage, or both. ended receives every sampled span when it ends. It must not
// block.
func New(s Sampler, by propagation.TextMapPropagator, ended func(Ended)) *Tracer {
	has := func(field string) bool { return slices.Contains(by.Fields(), field) }
	return &Tracer{s, by, has("traceparent"), has("baggage"), ended}
}

// Begin starts the span of a piece of work, below the span that the caller of the
// driver has named in the metadata of the gRPC call, if there is one. The caller of
// Begin must end it.
func (t *Tracer) Begin(ctx context.Context, name string, w Work) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	ctx = t.callers.Extract(ctx, incoming{ctx})
	caller := trace.SpanContextFromContext(ctx)
	in := &inSpan{Context: ctx, span: span{tracer: t, Ended: Ended{Name: name, Kind: trace.SpanKindInternal, Start: time.Now()}}}
	s, id := &in.span, newTraceID()
	if caller.IsValid() {
		id, s.Parent, s.Remote = caller.TraceID(), caller.SpanID(), caller.IsRemote()
	}
	sampled, state := t.sampler(ctx, id, name)
	s.Context = trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: id, SpanID: newID(), TraceFlags: caller.TraceFlags().WithSampled(sampled), TraceState: state,
	})
	if t.baggage {
		s.baggage = baggage.FromContext(ctx).String()
	}
	if s.Context.IsSampled() {
		kept := w // only then it is allocated
		s.Work = &kept
	}
	return in, Span{s}
}

// Step starts the span of a part of the work that has this context, where requests are
// parts of that one. The caller must end it.
func Step(ctx context.Context, name string) (context.Context, Span) {
	return child(ctx, name, trace.SpanKindInternal)
}

// Record adds the span of a part that has ended and has no parts of its own. It allocates
// nothing.
func Record(ctx context.Context, name string, start, end time.Time, err error) {
	parent := sampledSpan(ctx)
	if parent == nil {
		return
	}
	s := parent.part(name, trace.SpanKindInternal)
	s.Start, s.End = start, end
	s.fail(err)
	parent.tracer.ended(s)
}

// Request starts the span of one request to a store or a plugin. The caller must
// end it.
func Request(ctx context.Context, name string) (context.Context, Span) {
	return child(ctx, name, trace.SpanKindClient)
}

func child(ctx context.Context, name string, kind trace.SpanKind) (context.Context, Span) {
	parent := sampledSpan(ctx)
	if parent == nil {
		return ctx, Span{}
	}
	in := &inSpan{Context: ctx, span: span{tracer: parent.tracer, baggage: parent.baggage, Ended: parent.part(name, kind)}}
	in.span.Start = time.Now()
	return in, Span{&in.span}
}

// part returns a span below s, without its times.
func (s *span) part(name string, kind trace.SpanKind) Ended {
	return Ended{Context: s.Context.WithSpanID(newID()), Parent: s.Context.SpanID(), Name: name, Kind: kind}
}

func newTraceID() (id trace.TraceID) {
	first, second := newID(), newID()
	copy(id[copy(id[:], first[:]):], second[:])
	return id
}

// newID returns a random identifier. An identifier of zeros is none.
func newID() (id trace.SpanID) {
	binary.NativeEndian.PutUint64(id[:], max(rand.Uint64(), 1)) //nolint:gosec // it is no secret
	return id
}

// tell writes the span's context for another process, as W3C's Trace Context says.
// propagation.TraceContext takes several times as long.
func (s *span) tell(to propagation.TextMapCarrier) {
	if s.tracer.context {
		id, parent := s.Context.TraceID(), s.Context.SpanID()
		text := append(make([]byte, 0, len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")), "00-"...)
		text = append(hex.AppendEncode(text, id[:]), '-')
		text = append(hex.AppendEncode(text, parent[:]), '-')
		flags := s.Context.TraceFlags() & (trace.FlagsSampled | trace.FlagsRandom)
		to.Set("Traceparent", string(hex.AppendEncode(text, []byte{byte(flags)}))) // net/http copies a name of another form
		if state := s.Context.TraceState(); state.Len() > 0 {
			to.Set("Tracestate", state.String())
		}
	}
	if s.baggage != "" {
		to.Set("Baggage", s.baggage)
	}
}

// ToHTTP writes the trace, if there is one, to the header of a request.
func ToHTTP(ctx context.Context, header http.Header) {
	if s := spanOf(ctx); s != nil {
		s.tell(propagation.HeaderCarrier(header))
	}
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
	s.tell(carrier(md))
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
