package trace_test

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/propagation"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/trace"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/tracetest"
)

var work = trace.Work{PodNamespace: "shop", PodName: "web-0", PodUID: "u1", Volume: "csi-1", Class: "db"}

// whole is a piece of work with all that can be said of it.
func whole(ctx context.Context, t *trace.Tracer) http.Header {
	ctx, span := t.Begin(ctx, "publish", work)
	stepping, step := trace.Step(ctx, "store")
	asking, request := trace.Request(stepping, "read")
	header := http.Header{}
	trace.ToHTTP(asking, header)
	if request.On() {
		request.Exchange(trace.Exchange{Host: "vault.example", Port: "8200", Status: 403, Correlation: "c1", Again: 1})
	}
	denied := fault.New(fault.Denied, "no")
	request.End(denied)
	step.End(denied)
	span.Result(trace.Result{Provider: "vault", Asked: nil, Changed: false})
	span.End(nil)
	return header
}

func TestSpans(t *testing.T) {
	var ended []trace.Ended
	tracer := tracetest.New(&ended, true)
	const caller = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	header := whole(metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", caller)), tracer)
	if len(ended) != 3 {
		t.Fatalf("%d spans", len(ended))
	}
	request, step, root := ended[0], ended[1], ended[2]
	if request.Parent != step.Context.SpanID() || step.Parent != root.Context.SpanID() || step.Remote {
		t.Error("the request is not of the step, or the step not of the work")
	}
	if root.Parent.String() != "b7ad6b7169203331" || !root.Remote || root.Context.TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
		t.Error("the work is not of the caller's trace")
	}
	testkit.Equal(t, "traceparent", header.Get("Traceparent"), "00-0af7651916cd43dd8448eb211c80319c-"+request.Context.SpanID().String()+"-01")
	if !request.Failed || root.Failed {
		t.Errorf("the request failed: %v, the work: %v", request.Failed, root.Failed)
	}
	if request.Kind != oteltrace.SpanKindClient || step.Kind != oteltrace.SpanKindInternal || root.Kind != oteltrace.SpanKindInternal {
		t.Errorf("kinds %v, %v, %v", request.Kind, step.Kind, root.Kind)
	}
	if step.Start.Before(root.Start) || root.End.Before(request.End) || request.End.Before(request.Start) {
		t.Error("the request is not within the work")
	}
	got := said{}
	for _, s := range ended {
		s.Describe(got)
	}
	for key, want := range map[string]string{
		trace.KeyPodUID: "u1", trace.KeyPodName: "web-0", trace.KeyPodNamespace: "shop", trace.KeyVolume: "csi-1", trace.KeyClass: "db",
		trace.KeyServer: "vault.example", trace.KeyPort: "8200", trace.KeyStatus: "403", trace.KeyCorrelation: "c1", trace.KeyResend: "1",
		trace.KeyReason: "Denied", trace.KeyProvider: "vault", trace.KeyChanged: "false",
	} {
		testkit.Equal(t, key, got[key], want)
	}
}

// TestRecord: a part that has ended is of the work, and costs no memory.
func TestRecord(t *testing.T) {
	ended := make([]trace.Ended, 0, 200)
	ctx, span := tracetest.New(&ended, true).Begin(t.Context(), "publish", work)
	start, end := time.Unix(10, 0), time.Unix(12, 5)
	trace.Record(ctx, "write", start, end, fault.New(fault.Denied, "no"))
	if n := testing.AllocsPerRun(100, func() { trace.Record(ctx, "mount", start, end, nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	span.End(nil)
	write, mount, root := ended[0], ended[len(ended)-2], ended[len(ended)-1]
	for _, s := range []trace.Ended{write, mount} {
		if s.Parent != root.Context.SpanID() || s.Context.TraceID() != root.Context.TraceID() || !s.Start.Equal(start) || !s.End.Equal(end) || s.Kind != oteltrace.SpanKindInternal {
			t.Errorf("span %+v", s)
		}
	}
	if write.Name != "write" || !write.Failed || write.Reason != fault.Denied || mount.Failed || write.Context.SpanID() == mount.Context.SpanID() {
		t.Errorf("spans %+v and %+v", write, mount)
	}
}

// TestBaggage: the store is told what the caller wants all to know.
func TestBaggage(t *testing.T) {
	never := func(context.Context, oteltrace.TraceID, string) (bool, oteltrace.TraceState) {
		return false, oteltrace.TraceState{}
	}
	for _, tc := range []struct {
		by   propagation.TextMapPropagator
		want string
	}{
		{propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}), "team=shop"},
		{propagation.TraceContext{}, ""},
	} {
		ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("baggage", "team=shop"))
		ctx, _ = trace.New(never, tc.by, func(trace.Ended) {}).Begin(ctx, "publish", work)
		header := http.Header{}
		trace.ToHTTP(ctx, header)
		testkit.Equal(t, "baggage", header.Get("Baggage"), tc.want)
	}
}

// TestManyRequests: a class with many objects has no span of any size.
func TestManyRequests(t *testing.T) {
	var ended []trace.Ended
	_, span := tracetest.New(&ended, true).Begin(t.Context(), "publish", work)
	span.Result(trace.Result{Asked: make([]string, 10_000)})
	span.End(nil)
	got := said{}
	ended[0].Describe(got)
	testkit.Equal(t, "ids", strings.Count(got[trace.KeyAsked], ","), 63)
}

// said has the attributes of spans as text.
type said map[string]string

func (s said) Text(key, value string)            { s[key] = value }
func (s said) Texts(key string, values []string) { s[key] = strings.Join(values, ",") }
func (s said) Number(key string, value int)      { s[key] = strconv.Itoa(value) }
func (s said) Flag(key string, value bool)       { s[key] = strconv.FormatBool(value) }

// TestNotSampled: who does not keep the work does not keep its parts, and says so
// to the store.
func TestNotSampled(t *testing.T) {
	var ended []trace.Ended
	header := whole(t.Context(), tracetest.New(&ended, false))
	testkit.Equal(t, "spans", len(ended), 0)
	if got := header.Get("Traceparent"); len(got) != 55 || got[53:] != "00" {
		t.Errorf("traceparent %q", got)
	}
}

func TestGRPC(t *testing.T) {
	tracer := tracetest.New(&[]trace.Ended{}, true)
	ctx := metadata.NewOutgoingContext(t.Context(), metadata.Pairs("other", "kept"))
	ctx, span := tracer.Begin(ctx, "publish", work)
	md, _ := metadata.FromOutgoingContext(trace.ToGRPC(ctx))
	if got := md.Get("traceparent"); len(got) != 1 || got[0][3:35] != span.ID() || md.Get("other")[0] != "kept" {
		t.Errorf("metadata %v, trace %s", md, span.ID())
	}
	if before, _ := metadata.FromOutgoingContext(ctx); len(before.Get("traceparent")) != 0 {
		t.Error("the caller's metadata was changed")
	}
}

// TestEndedOnce: what comes after the end of a span is not said of it, whatever goroutine it is of.
func TestEndedOnce(t *testing.T) {
	var ended []trace.Ended
	ctx, span := tracetest.New(&ended, true).Begin(t.Context(), "publish", work)
	_, request := trace.Request(ctx, "read")
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			request.Exchange(trace.Exchange{Correlation: "c1"})
			request.End(nil)
		})
	}
	all.Wait()
	span.End(nil)
	span.End(errors.New("no"))
	if len(ended) != 2 || ended[1].Failed {
		t.Errorf("spans %+v", ended)
	}
}

// TestOff: without a Tracer nothing is allocated, and nothing is said.
func TestOff(t *testing.T) {
	var off *trace.Tracer
	ctx, failure := t.Context(), errors.New("no")
	header := http.Header{}
	began := time.Now()
	n := testing.AllocsPerRun(100, func() {
		ctx, span := off.Begin(ctx, "publish", work)
		stepping, step := trace.Step(ctx, "store")
		asking, request := trace.Request(stepping, "read")
		trace.ToHTTP(asking, header)
		_ = trace.ToGRPC(asking)
		request.Exchange(trace.Exchange{Host: "vault.example", Port: "8200", Status: 200})
		request.End(failure)
		step.End(nil)
		trace.Record(ctx, "write", began, began, failure)
		span.Result(trace.Result{Provider: "vault"})
		span.End(failure)
		if span.ID() != "" || span.On() {
			t.Error("a span without a Tracer")
		}
	})
	if n != 0 || len(header) != 0 {
		t.Errorf("%v allocations, header %v", n, header)
	}
}

// BenchmarkOff is what a publish with six spans pays for traces that are off.
func BenchmarkOff(b *testing.B) {
	var off *trace.Tracer
	b.ReportAllocs()
	for b.Loop() {
		ctx, span := off.Begin(b.Context(), "publish", work)
		for range 4 {
			trace.Record(ctx, "write", time.Time{}, time.Time{}, nil) // the driver has the times anyway
		}
		_, step := trace.Step(ctx, "store")
		step.End(nil)
		span.End(nil)
	}
}

// BenchmarkOn is what a publish with six spans costs, without what receives them.
func BenchmarkOn(b *testing.B) {
	var ended []trace.Ended
	t := tracetest.New(&ended, true)
	b.ReportAllocs()
	for b.Loop() {
		ended = ended[:0]
		ctx, span := t.Begin(b.Context(), "publish", work)
		for range 4 {
			trace.Record(ctx, "write", time.Time{}, time.Time{}, nil) // the driver has the times anyway
		}
		_, step := trace.Step(ctx, "store")
		step.End(nil)
		span.End(nil)
	}
}
