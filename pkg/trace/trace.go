// Package trace records the steps of a publish, a refresh and a release, and the
// requests to a store, as OpenTelemetry spans. The pipeline and the providers use
// only this package of OpenTelemetry.
//
// A span has identifiers, codes and times, and no text of a class, no token, and
// nothing that a store has said. The reason of a failure is that of package fault;
// the text is in the log.
//
// Without a Tracer this package does nothing, and allocates nothing.
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

// scope is the name of the instrumentation in the spans.
const scope = "github.com/mayfly-csi/mayfly"

// Tracer begins the spans of pieces of work. A nil Tracer begins none.
type Tracer struct {
	spans      trace.Tracer
	propagator propagation.TextMapPropagator
}

// New makes a Tracer. Its spans go to a provider. The propagator writes their
// contexts for the stores, and reads those of callers.
func New(to trace.TracerProvider, by propagation.TextMapPropagator, version string) *Tracer {
	return &Tracer{to.Tracer(scope, trace.WithInstrumentationVersion(version)), by}
}

// tracerKey is the context key of the Tracer of a piece of work.
type tracerKey struct{}

func tracerOf(ctx context.Context) *Tracer {
	t, _ := ctx.Value(tracerKey{}).(*Tracer)
	return t
}

// Work describes a publish, a refresh or a release.
type Work struct {
	PodNamespace, PodName, PodUID string
	// Volume is the volume's id, Class the name of the SecretProviderClass.
	Volume, Class string
}

// Begin starts the span of a piece of work, below the span that Incoming has found.
// The caller must end it.
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

// Step starts the span of a part of the work that has this context. The caller must
// end it.
func Step(ctx context.Context, name string) (context.Context, Span) {
	return child(ctx, name, step)
}

// Request starts the span of one request to a store or a plugin. The caller must
// end it.
func Request(ctx context.Context, name string) (context.Context, Span) {
	return child(ctx, name, request)
}

// The options of spans, allocated once.
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

// Incoming returns the context of a gRPC call with the trace that its caller named
// in the metadata.
func (t *Tracer) Incoming(ctx context.Context) context.Context {
	if t == nil {
		return ctx
	}
	return t.propagator.Extract(ctx, incoming{ctx})
}

// ToHTTP writes the trace, if there is one, to the header of a request.
func ToHTTP(ctx context.Context, header http.Header) {
	if t := tracerOf(ctx); t != nil {
		t.propagator.Inject(ctx, propagation.HeaderCarrier(header))
	}
}

// ToGRPC adds the trace, if there is one, to the metadata of gRPC calls with the
// context.
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

// Span is the span of one piece of work, one of its steps or one request. The zero
// value records nothing.
type Span struct{ s trace.Span }

// ID returns the trace id in hexadecimal digits; empty for a trace that is not
// sampled.
func (s Span) ID() string {
	if s.s == nil || !s.s.SpanContext().IsSampled() {
		return ""
	}
	return s.s.SpanContext().TraceID().String()
}

// On reports whether the span is kept.
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
