package export

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/trace"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var unlimited = sdk.SpanLimits{AttributeCountLimit: -1, AttributeValueLengthLimit: -1}

// published is a span with all that one can have.
func published(t *testing.T) *trace.Ended {
	t.Helper()
	state := testkit.Value(oteltrace.ParseTraceState("a=1,b=2"))(t)
	c := oteltrace.SpanContextConfig{TraceID: oteltrace.TraceID{1, 15: 2}, SpanID: oteltrace.SpanID{3, 7: 4}, TraceFlags: oteltrace.FlagsSampled, TraceState: state}
	start := time.Unix(1700000000, 123456789)
	return &trace.Ended{
		Context: oteltrace.NewSpanContext(c), Parent: oteltrace.SpanID{5, 7: 6}, Remote: true, Name: "publish", Kind: oteltrace.SpanKindClient,
		Start: start, End: start.Add(time.Second), Failed: true,
		Work:     &trace.Work{PodUID: "wörter", PodName: "web-0", PodNamespace: "shop", Volume: "csi-1", Class: "db"},
		Result:   &trace.Result{Provider: "vault", Asked: []string{"a", "", "c"}, Changed: true},
		Exchange: &trace.Exchange{Host: "vault.example", Port: "8200", Status: 403, Correlation: "c", Again: 2},
		Reason:   fault.Denied,
	}
}

func encoded(s *trace.Ended, limits sdk.SpanLimits) []byte {
	e := encoder{limits: limits}
	e.span(s)
	return e.text
}

func decode(t *testing.T, text []byte) *tracepb.Span {
	t.Helper()
	var of tracepb.ScopeSpans
	testkit.Must(t, proto.Unmarshal(text, &of))
	if len(of.GetSpans()) != 1 || len(of.ProtoReflect().GetUnknown())+len(of.GetSpans()[0].ProtoReflect().GetUnknown()) != 0 {
		t.Fatalf("not one span of known fields: %s", prototext.Format(&of))
	}
	return of.GetSpans()[0]
}

func value(v any) *commonpb.AnyValue {
	switch v := v.(type) {
	case string:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: v}}
	case bool:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: v}}
	case int:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: int64(v)}}
	}
	list := &commonpb.ArrayValue{}
	for _, text := range v.([]string) { //nolint:forcetypeassert // it is the last kind
		list.Values = append(list.Values, value(text))
	}
	return &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: list}}
}

// TestEncode compares with the messages that are generated from OpenTelemetry's files.
func TestEncode(t *testing.T) {
	want := &tracepb.Span{
		TraceId: []byte{1, 15: 2}, SpanId: []byte{3, 7: 4}, ParentSpanId: []byte{5, 7: 6}, TraceState: "a=1,b=2", Flags: 0x301,
		Name: "publish", Kind: tracepb.Span_SPAN_KIND_CLIENT, StartTimeUnixNano: 1700000000123456789, EndTimeUnixNano: 1700000001123456789,
		Status: &tracepb.Status{Code: tracepb.Status_STATUS_CODE_ERROR},
		Attributes: []*commonpb.KeyValue{
			{Key: trace.KeyPodUID, Value: value("wörter")}, {Key: trace.KeyPodName, Value: value("web-0")}, {Key: trace.KeyPodNamespace, Value: value("shop")},
			{Key: trace.KeyVolume, Value: value("csi-1")}, {Key: trace.KeyClass, Value: value("db")},
			{Key: trace.KeyChanged, Value: value(true)}, {Key: trace.KeyProvider, Value: value("vault")}, {Key: trace.KeyAsked, Value: value([]string{"a", "", "c"})},
			{Key: trace.KeyServer, Value: value("vault.example")}, {Key: trace.KeyPort, Value: value(8200)}, {Key: trace.KeyStatus, Value: value(403)},
			{Key: trace.KeyCorrelation, Value: value("c")}, {Key: trace.KeyResend, Value: value(2)}, {Key: trace.KeyReason, Value: value("Denied")},
		},
	}
	span := published(t)
	if got := decode(t, encoded(span, unlimited)); !proto.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", prototext.Format(got), prototext.Format(want))
	}
	first := trace.Ended{Context: span.Context, Name: "release", Kind: oteltrace.SpanKindInternal, Start: span.Start, End: span.End, Result: &trace.Result{}}
	want = &tracepb.Span{
		TraceId: want.TraceId, SpanId: want.SpanId, TraceState: want.TraceState, Flags: 0x101, Name: "release", Kind: tracepb.Span_SPAN_KIND_INTERNAL,
		StartTimeUnixNano: want.StartTimeUnixNano, EndTimeUnixNano: want.EndTimeUnixNano,
		Attributes: []*commonpb.KeyValue{{Key: trace.KeyChanged, Value: value(false)}},
	}
	if got := decode(t, encoded(&first, unlimited)); !proto.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", prototext.Format(got), prototext.Format(want))
	}
}

// TestEncodeLimits: OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT and OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT.
func TestEncodeLimits(t *testing.T) {
	for _, tc := range []struct {
		limits  sdk.SpanLimits
		kept    int
		dropped uint32
		text    string
	}{
		{sdk.SpanLimits{AttributeCountLimit: 3, AttributeValueLengthLimit: 2}, 3, 11, "wö"},
		{sdk.SpanLimits{AttributeCountLimit: 14, AttributeValueLengthLimit: 6}, 14, 0, "wörter"},
		{sdk.SpanLimits{AttributeCountLimit: 1, AttributeValueLengthLimit: 0}, 1, 13, ""},
		{sdk.SpanLimits{AttributeCountLimit: 0, AttributeValueLengthLimit: 0}, 0, 14, ""},
	} {
		s := decode(t, encoded(published(t), tc.limits))
		if len(s.GetAttributes()) != tc.kept || s.GetDroppedAttributesCount() != tc.dropped {
			t.Errorf("%+v: %d attributes, %d dropped", tc.limits, len(s.GetAttributes()), s.GetDroppedAttributesCount())
		}
		if tc.kept > 0 && s.GetAttributes()[0].GetValue().GetStringValue() != tc.text {
			t.Errorf("%+v: the text is %q, want %q", tc.limits, s.GetAttributes()[0].GetValue().GetStringValue(), tc.text)
		}
	}
}

// FuzzEncode: a message is valid whatever a text has, and however long it is.
func FuzzEncode(f *testing.F) {
	for _, n := range []int{0, 1, 50, 100, 127, 128, 16_383, 16_384, 1 << 20} {
		f.Add(fmt.Sprint(n), strings.Repeat("x", n), n)
	}
	f.Add("\xff\xfe", "\xc3", 1)
	f.Fuzz(func(t *testing.T, name, text string, most int) {
		s := published(t)
		s.Name, s.Work, s.Result.Asked = name, &trace.Work{PodUID: text + "x", Class: name}, []string{name, text}
		got := decode(t, encoded(s, sdk.SpanLimits{AttributeCountLimit: -1, AttributeValueLengthLimit: most}))
		short := got.GetAttributes()[0].GetValue().GetStringValue()
		if utf8.ValidString(text) && !strings.HasPrefix(text+"x", short) || most >= 0 && utf8.RuneCountInString(short) > most {
			t.Errorf("%d characters of %q are %q", most, text, short)
		}
	})
}
