package trace

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// Ended is a span that has ended.
type Ended struct {
	Context trace.SpanContext
	// Parent is of another process if it is remote, and zero if there is no parent.
	Parent     trace.SpanID
	Remote     bool
	Name       string
	Kind       trace.SpanKind
	Start, End time.Time
	Failed     bool

	// What there is to say of it; nil and empty for nothing. Describe says all of it.
	Work     *Work
	Result   *Result
	Exchange *Exchange
	Reason   fault.Reason
}

// fail records the reason of a failure; nil for none.
func (s *Ended) fail(err error) {
	if err != nil {
		s.Failed, s.Reason = true, fault.Of(err)
	}
}

// span is a span that has not ended.
type span struct {
	tracer *Tracer
	// baggage is what the caller wants all to know that work for it, as W3C's Baggage
	// says; empty for nothing.
	baggage string

	mu    sync.Mutex
	ended bool
	Ended
}

// inSpan is the context of the work that a span is of. It is one object with the span, so
// that a request costs one less.
type inSpan struct {
	context.Context //nolint:containedctx // it is the one that it extends

	span span
}

// Value implements context.Context.
func (c *inSpan) Value(key any) any {
	if key == (spanKey{}) {
		return &c.span
	}
	return c.Context.Value(key)
}

// spanKey is the context key of the span that other spans begin below.
type spanKey struct{}

func spanOf(ctx context.Context) *span {
	s, _ := ctx.Value(spanKey{}).(*span)
	return s
}

// sampledSpan returns nil if other spans below that of the context are not recorded.
func sampledSpan(ctx context.Context) *span {
	if s := spanOf(ctx); s != nil && s.Context.IsSampled() {
		return s
	}
	return nil
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

// change changes a sampled span that has not ended.
func (s Span) change(by func(*span)) {
	if !s.On() {
		return
	}
	s.s.mu.Lock()
	if !s.s.ended {
		by(s.s)
	}
	s.s.mu.Unlock()
}

// Result records the result of the work.
func (s Span) Result(r Result) {
	s.change(func(s *span) {
		kept := r // only a sampled span allocates it
		if len(r.Asked) > maxAsked {
			kept.Asked = slices.Clone(r.Asked[:maxAsked]) // so that the others are not kept
		}
		s.Result = &kept
	})
}

// Exchange records the request.
func (s Span) Exchange(x Exchange) {
	s.change(func(s *span) {
		kept := x
		s.Exchange = &kept
	})
}

// End ends the span, with the reason of a failure.
func (s Span) End(err error) {
	s.change(func(s *span) {
		s.ended = true
		s.fail(err)
		s.End = s.Start.Add(time.Since(s.Start))
		s.tracer.ended(s.Ended)
	})
}
