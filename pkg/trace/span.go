package trace

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// Ended is a span that has ended.
type Ended struct {
	// Parent is of another process if it is remote, and has no span id if there is no
	// parent.
	Context, Parent trace.SpanContext
	Name            string
	Kind            trace.SpanKind
	Start, End      time.Time
	Attributes      []attribute.KeyValue
	Failed          bool
}

// span is a span that has not ended.
type span struct {
	tracer *Tracer

	mu    sync.Mutex
	ended bool
	Ended
}

// set adds attributes, until the span has ended.
func (s *span) set(more ...attribute.KeyValue) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.Attributes = append(s.Attributes, more...)
	}
}

// inject writes the span's context for another process.
func (s *span) inject(ctx context.Context, to propagation.TextMapCarrier) {
	if s != nil {
		s.tracer.propagator.Inject(trace.ContextWithSpanContext(ctx, s.Context), to)
	}
}

// Span is the span of one piece of work, one of its steps or one request. The zero
// value records nothing.
type Span struct{ s *span }

// ID returns the trace id in hexadecimal digits; empty for a trace that is not
// sampled.
func (s Span) ID() string {
	if !s.On() {
		return ""
	}
	return s.s.Context.TraceID().String()
}

// On reports whether the span is sampled.
func (s Span) On() bool { return s.s != nil && s.s.Context.IsSampled() }

// End ends the span, with the reason of a failure.
func (s Span) End(err error) {
	if !s.On() {
		return
	}
	if err != nil {
		s.s.set(attribute.String(KeyReason, string(fault.Of(err))))
	}
	s.s.end(err != nil)
}

func (s *span) end(failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	s.Failed, s.End = failed, s.Start.Add(time.Since(s.Start))
	s.tracer.ended(&s.Ended)
}
