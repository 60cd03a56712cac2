package export

import (
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// The numbers of fields in opentelemetry/proto/trace/v1/trace.proto, common/v1 and
// resource/v1. Spans are encoded when they end, so that one that waits is some hundred
// bytes, and no tree of messages is made of it.
const (
	resourceSpansResource = 1
	resourceSpansScope    = 2
	resourceSpansSchema   = 3
	resourceAttributes    = 1
	scopeSpansScope       = 1
	scopeSpansSpans       = 2
	scopeName             = 1
	scopeVersion          = 2

	spanTraceID    = 1
	spanID         = 2
	spanTraceState = 3
	spanParent     = 4
	spanName       = 5
	spanKind       = 6
	spanStart      = 7
	spanEnd        = 8
	spanAttributes = 9
	spanDropped    = 10
	spanStatus     = 15
	spanFlags      = 16
	statusCode     = 3

	keyValueKey   = 1
	keyValueValue = 2
	valueString   = 1
	valueBool     = 2
	valueInt      = 3
	valueArray    = 5
	arrayValues   = 1
)

const (
	statusError     = 2
	flagKnowsRemote = 0x100
	flagRemote      = 0x200
)

// appendSpan appends a span as an element of ScopeSpans.
func appendSpan(b []byte, s *trace.Ended, limits sdk.SpanLimits) []byte {
	b, begin := open(b, scopeSpansSpans)
	trace, id := s.Context.TraceID(), s.Context.SpanID()
	b = appendBytes(b, spanTraceID, trace[:])
	b = appendBytes(b, spanID, id[:])
	if state := s.Context.TraceState(); state.Len() > 0 {
		b = appendText(b, spanTraceState, state.String())
	}
	flags := uint32(s.Context.TraceFlags()) | flagKnowsRemote
	if s.Parent.IsValid() {
		b = appendBytes(b, spanParent, s.Parent[:])
	}
	if s.Remote {
		flags |= flagRemote
	}
	b = appendText(b, spanName, s.Name)
	b = appendVarint(b, spanKind, kindOf(s.Kind))
	b = protowire.AppendTag(b, spanStart, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, uint64(s.Start.UnixNano())) //nolint:gosec // it is after 1970
	b = protowire.AppendTag(b, spanEnd, protowire.Fixed64Type)
	b = protowire.AppendFixed64(b, uint64(s.End.UnixNano())) //nolint:gosec // it is after 1970
	var kept, dropped int
	for a := range s.Attributes {
		if kept == limits.AttributeCountLimit {
			dropped++
			continue
		}
		kept++
		b = appendAttribute(b, spanAttributes, a, limits.AttributeValueLengthLimit)
	}
	if dropped > 0 {
		b = appendVarint(b, spanDropped, uint64(dropped)) //nolint:gosec // it is positive
	}
	if s.Failed {
		var status int
		b, status = open(b, spanStatus)
		b = finish(appendVarint(b, statusCode, statusError), status)
	}
	b = protowire.AppendTag(b, spanFlags, protowire.Fixed32Type)
	return finish(protowire.AppendFixed32(b, flags), begin)
}

// kindOf returns the number in OTLP.
func kindOf(k oteltrace.SpanKind) uint64 {
	if k == oteltrace.SpanKindClient {
		return 3
	}
	return 1
}

// appendAttribute appends a KeyValue message as a field. most is that of cut.
func appendAttribute(b []byte, field protowire.Number, a attribute.KeyValue, most int) []byte {
	b, pair := open(b, field)
	b = appendText(b, keyValueKey, string(a.Key))
	b, value := open(b, keyValueValue)
	return finish(finish(appendValue(b, a.Value, most), value), pair)
}

// appendValue appends the fields of an AnyValue.
func appendValue(b []byte, v attribute.Value, most int) []byte {
	switch v.Type() {
	case attribute.BOOL:
		return appendVarint(b, valueBool, protowire.EncodeBool(v.AsBool()))
	case attribute.INT64:
		return appendVarint(b, valueInt, uint64(v.AsInt64())) //nolint:gosec // as protobuf encodes it
	case attribute.STRINGSLICE:
		b, array := open(b, valueArray)
		for _, text := range v.AsStringSlice() {
			var element int
			b, element = open(b, arrayValues)
			b = finish(appendText(b, valueString, cut(text, most)), element)
		}
		return finish(b, array)
	}
	return appendText(b, valueString, cut(v.String(), most))
}

// cut shortens a text to so many characters.
func cut(text string, most int) string {
	if most < 0 || len(text) <= most {
		return text
	}
	for i := range text {
		if most == 0 {
			return text[:i]
		}
		most--
	}
	return text
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// appendText appends a text, which protobuf wants in UTF-8.
func appendText(b []byte, field protowire.Number, v string) []byte {
	if !utf8.ValidString(v) {
		v = string([]rune(v))
	}
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

// open begins a message as a field, whose own fields follow. Its length is before them,
// and mostly takes one byte; finish sets it.
func open(b []byte, field protowire.Number) (_ []byte, begin int) {
	b = append(protowire.AppendTag(b, field, protowire.BytesType), 0)
	return b, len(b)
}

// finish ends the message that begins there.
func finish(b []byte, begin int) []byte {
	size := len(b) - begin
	if n := protowire.SizeVarint(uint64(size)); n > 1 { //nolint:gosec // it is positive
		b = append(b, make([]byte, n-1)...)
		copy(b[begin+n-1:], b[begin:begin+size])
	}
	protowire.AppendVarint(b[:begin-1], uint64(size)) //nolint:gosec // it is positive
	return b
}
