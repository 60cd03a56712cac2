package plugin_test

import (
	"testing"

	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/mayfly-csi/mayfly/pkg/provider/plugin"
	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// TestTrace: a call is a span, of which the plugin is told.
func TestTrace(t *testing.T) {
	w := newWorld(t, plugin.Config{})
	recorder := tracetest.NewSpanRecorder()
	tracer := trace.New(sdk.NewTracerProvider(sdk.WithSpanProcessor(recorder)), propagation.TraceContext{}, "v1")
	ctx, span := tracer.Begin(t.Context(), "publish", trace.Work{})
	if _, err := w.get("aws").Fetch(ctx, w.request()); err != nil {
		t.Fatal(err)
	}
	span.End(nil)
	call := recorder.Ended()[0]
	want := "00-" + span.ID() + "-" + call.SpanContext().SpanID().String() + "-01"
	if got := w.server.Header("traceparent"); call.Name() != "plugin" || len(got) != 1 || got[0] != want {
		t.Errorf("span %s, traceparent %q, want %q", call.Name(), got, want)
	}
}
