package export

import (
	"unicode/utf8"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	oteltrace "go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/mayfly-csi/mayfly/pkg/trace"
)

// The numbers of fields in opentelemetry/proto/trace/v1/trace.proto, common/v1 and
// resource/v1. Spans are encoded without the tree of messages that is generated from these
// files.
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

// encoder appends spans to text.
type encoder struct {
	text   []byte
	limits sdk.SpanLimits
	// kept and dropped are the numbers of attributes of the last span.
	kept, dropped int
}

// span appends a span as an element of ScopeSpans.
func (e *encoder) span(s *trace.Ended) {
	b, begin := open(e.text, scopeSpansSpans)
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
	e.text, e.kept, e.dropped = b, 0, 0
	s.Describe(e)
	b = e.text
	if e.dropped > 0 {
		b = appendVarint(b, spanDropped, uint64(e.dropped)) //nolint:gosec // it is positive
	}
	if s.Failed {
		var status int
		b, status = open(b, spanStatus)
		b = finish(appendVarint(b, statusCode, statusError), status)
	}
	b = protowire.AppendTag(b, spanFlags, protowire.Fixed32Type)
	e.text = finish(protowire.AppendFixed32(b, flags), begin)
}

// kindOf returns the number in OTLP.
func kindOf(k oteltrace.SpanKind) uint64 {
	if k == oteltrace.SpanKindClient {
		return 3
	}
	return 1
}

// Text implements trace.Attributes.
func (e *encoder) Text(key, value string) {
	e.attribute(key, func(b []byte) []byte {
		return appendText(b, valueString, cut(value, e.limits.AttributeValueLengthLimit))
	})
}

// Number implements trace.Attributes.
func (e *encoder) Number(key string, value int) {
	e.attribute(key, func(b []byte) []byte { return appendVarint(b, valueInt, uint64(value)) }) //nolint:gosec // as protobuf encodes it
}

// Flag implements trace.Attributes.
func (e *encoder) Flag(key string, value bool) {
	e.attribute(key, func(b []byte) []byte { return appendVarint(b, valueBool, protowire.EncodeBool(value)) })
}

// Texts implements trace.Attributes.
func (e *encoder) Texts(key string, values []string) {
	e.attribute(key, func(b []byte) []byte {
		b, array := open(b, valueArray)
		for _, text := range values {
			var element int
			b, element = open(b, arrayValues)
			b = finish(appendText(b, valueString, cut(text, e.limits.AttributeValueLengthLimit)), element)
		}
		return finish(b, array)
	})
}

// attribute appends an attribute of the span, if the limit allows that. value appends
// the field of an AnyValue.
func (e *encoder) attribute(key string, value func([]byte) []byte) {
	if e.kept == e.limits.AttributeCountLimit {
		e.dropped++
		return
	}
	e.kept++
	e.text = appendAttribute(e.text, spanAttributes, key, value)
}

// appendAttribute appends a KeyValue message as a field.
func appendAttribute(b []byte, field protowire.Number, key string, value func([]byte) []byte) []byte {
	b, pair := open(b, field)
	b = appendText(b, keyValueKey, key)
	b, of := open(b, keyValueValue)
	return finish(finish(value(b), of), pair)
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
