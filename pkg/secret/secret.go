// Package secret holds values that must never be printed: the store's answers, and the tokens that
// logged in to it.
//
// Only Reveal returns the plain value, so a search for that name finds every place that handles
// plain bytes. Printing, logging or marshalling a value yields [redacted]. The bytes are behind a
// pointer because fmt does not call methods on unexported fields: a struct that holds a secret
// prints an address, not the secret.
package secret

import (
	"fmt"
	"io"
	"log/slog"
)

// Redacted replaces a secret in all printed output.
const Redacted = "[redacted]"

// Bytes is a secret of any content, such as a file's.
type Bytes struct{ p *[]byte }

// NewBytes takes ownership of b.
func NewBytes(b []byte) Bytes { return Bytes{&b} }

// Reveal returns the plain bytes, which the caller must not change.
func (s Bytes) Reveal() []byte {
	if s.p == nil {
		return nil
	}
	return *s.p
}

// Len is the number of bytes, which is not secret.
func (s Bytes) Len() int { return len(s.Reveal()) }

// Format implements fmt.Formatter for every verb and flag.
func (Bytes) Format(f fmt.State, _ rune) { redact(f) }

// String implements fmt.Stringer.
func (Bytes) String() string { return Redacted }

// LogValue implements slog.LogValuer.
func (Bytes) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText implements encoding.TextMarshaler, and with it JSON and YAML.
func (Bytes) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// String is a secret text, such as a token.
type String struct{ p *string }

// NewString makes a secret of s.
func NewString(s string) String { return String{&s} }

// Reveal returns the plain text.
func (s String) Reveal() string {
	if s.p == nil {
		return ""
	}
	return *s.p
}

// Empty reports whether the text is empty.
func (s String) Empty() bool { return s.Reveal() == "" }

// Format implements fmt.Formatter for every verb and flag.
func (String) Format(f fmt.State, _ rune) { redact(f) }

// String implements fmt.Stringer.
func (String) String() string { return Redacted }

// LogValue implements slog.LogValuer.
func (String) LogValue() slog.Value { return slog.StringValue(Redacted) }

// MarshalText implements encoding.TextMarshaler, and with it JSON and YAML.
func (String) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

func redact(w io.Writer) { _, _ = io.WriteString(w, Redacted) }
