package plugin_test

import (
	"slices"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// TestTrace: a call is a span, of which the plugin is told.
func TestTrace(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	recorder := tracetest.NewSpanRecorder()
	tracer := trace.New(sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder)), propagation.TraceContext{}, "v1")
	ctx, span := tracer.Begin(provider.WithTrail(t.Context(), &provider.Trail{}), "publish", trace.Work{})
	if _, err := w.get("aws").Fetch(ctx, w.request()); err != nil {
		t.Fatal(err)
	}
	span.End(nil)
	call := recorder.Ended()[0]
	want := "00-" + span.ID() + "-" + call.SpanContext().SpanID().String() + "-01"
	if ids := w.server.Header("x-correlation-id"); len(ids) != 1 || !slices.Contains(call.Attributes(), attribute.String(trace.KeyCorrelation, ids[0])) {
		t.Errorf("the plugin was given the ids %q, the span has %v", ids, call.Attributes())
	}
	if got := w.server.Header("traceparent"); call.Name() != "plugin" || len(got) != 1 || got[0] != want {
		t.Errorf("span %s, traceparent %q, want %q", call.Name(), got, want)
	}
}
