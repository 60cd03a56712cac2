// Package trace has the driver say, in OpenTelemetry's spans, of what steps a
// publish, a refresh or a release was made, and which requests to a store. The
// pipeline and the providers use it and nothing else of OpenTelemetry.
//
// A span holds identifiers, codes and times alone: no text of a class, no token,
// nothing that a store said. Its reason is that of package fault; the log has the
// words.
//
// Without a Tracer everything here does nothing, and allocates nothing.
package trace

import (
	"context"
	"maps"
	"net/http"
	"slices"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// scope names what makes the spans.
const scope = "github.com/mayfly-csi/mayfly"

// Tracer begins the spans of pieces of work. A nil Tracer begins none.
type Tracer struct {
	spans      trace.Tracer
	propagator propagation.TextMapPropagator
}

// New makes a Tracer whose spans go to a provider, and whose contexts go to the
// stores, and come from callers, by the propagator.
func New(to trace.TracerProvider, by propagation.TextMapPropagator, version string) *Tracer {
	return &Tracer{to.Tracer(scope, trace.WithInstrumentationVersion(version)), by}
}

// tracerKey is where the context of a piece of work has its Tracer.
type tracerKey struct{}

func tracerOf(ctx context.Context) *Tracer {
	t, _ := ctx.Value(tracerKey{}).(*Tracer)
	return t
}

// Work is what a publish, a refresh or a release is about.
type Work struct {
	PodNamespace, PodName, PodUID string
	// Volume is its id, Class the name of the SecretProviderClass.
	Volume, Class string
}

// Begin starts the span of a piece of work. That a call has brought by Incoming is
// its parent. The span must be ended.
func (t *Tracer) Begin(ctx context.Context, name string, w Work) (context.Context, Span) {
	if t == nil {
		return ctx, Span{}
	}
	ctx, s := t.spans.Start(context.WithValue(ctx, tracerKey{}, t), name)
	if s.IsRecording() {
		s.SetAttributes(
			attribute.String(KeyPodUID, w.PodUID), attribute.String(KeyPodName, w.PodName), attribute.String(KeyPodNamespace, w.PodNamespace),
			attribute.String(KeyVolume, w.Volume), attribute.String(KeyClass, w.Class))
	}
	return ctx, Span{s}
}

// Step starts the span of a part of the work whose context it is given. The span
// must be ended.
func Step(ctx context.Context, name string) (context.Context, Span) {
	return child(ctx, name, step)
}

// Request starts the span of one request to a store, or to a plugin. The span must
// be ended.
func Request(ctx context.Context, name string) (context.Context, Span) {
	return child(ctx, name, request)
}

// The options of spans, made once.
var (
	step    = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindInternal)}
	request = []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindClient)}
)

func child(ctx context.Context, name string, kind []trace.SpanStartOption) (context.Context, Span) {
	t := tracerOf(ctx)
	if t == nil || !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, Span{}
	}
	ctx, s := t.spans.Start(ctx, name, kind...)
	return ctx, Span{s}
}

// Incoming gives a call of gRPC the trace that its caller named in the metadata.
func (t *Tracer) Incoming(ctx context.Context) context.Context {
	if t == nil {
		return ctx
	}
	return t.propagator.Extract(ctx, incoming{ctx})
}

// ToHTTP writes the trace, if there is one, to a request's header.
func ToHTTP(ctx context.Context, header http.Header) {
	if t := tracerOf(ctx); t != nil {
		t.propagator.Inject(ctx, propagation.HeaderCarrier(header))
	}
}

// ToGRPC adds the trace, if there is one, to the metadata of calls with the context.
func ToGRPC(ctx context.Context) context.Context {
	t := tracerOf(ctx)
	if t == nil {
		return ctx
	}
	md, _ := metadata.FromOutgoingContext(ctx)
	md = md.Copy()
	t.propagator.Inject(ctx, carrier(md))
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

// carrier is metadata of gRPC for a propagator.
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

// Span is the span of one piece of work, one of its steps or one request. The zero
// value records nothing.
type Span struct{ s trace.Span }

// ID is the trace id in hexadecimal digits, empty for a trace that is not sampled.
func (s Span) ID() string {
	if s.s == nil || !s.s.SpanContext().IsSampled() {
		return ""
	}
	return s.s.SpanContext().TraceID().String()
}

// On tells whether the span is kept.
func (s Span) On() bool { return s.s != nil && s.s.IsRecording() }

// End ends the span, with the reason of a failure.
func (s Span) End(err error) {
	if s.s == nil {
		return
	}
	if err != nil && s.s.IsRecording() {
		s.s.SetStatus(codes.Error, "")
		s.s.SetAttributes(attribute.String(KeyReason, string(fault.Of(err))))
	}
	s.s.End()
}
