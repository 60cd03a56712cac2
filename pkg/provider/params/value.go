package params

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
)

// Encoding says how a value is encoded in the store.
type Encoding string

// The encodings.
const (
	Plain  Encoding = "utf-8"
	Base64 Encoding = "base64"
	Hex    Encoding = "hex"
)

// Decode returns the bytes. Its errors do not quote the text.
func (e Encoding) Decode(text string) ([]byte, error) {
	switch e {
	case Base64:
		if out, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err == nil {
			return out, nil
		}
		return nil, errors.New("it does not decode (standard alphabet, with padding)")
	case Hex:
		if out, err := hex.DecodeString(strings.TrimSpace(text)); err == nil {
			return out, nil
		}
		return nil, errors.New("it does not decode")
	}
	return []byte(text), nil
}

// File returns a file's contents for a value: a string decoded, anything else as compact JSON.
func (e Encoding) File(value any) ([]byte, error) {
	text, isText := value.(string)
	switch {
	case isText:
		return e.Decode(text)
	case e != Plain:
		return nil, errors.New("it is not text")
	}
	return JSON(value)
}

// JSON returns compact JSON without HTML escapes and newline.
func JSON(v any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// Decode reads JSON and keeps its numbers as they are written.
func Decode(data []byte, into any) error {
	if bytes.HasPrefix(data, []byte(`"`)) {
		return json.Unmarshal(data, into) // without numbers it needs no Decoder and its buffer
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if len(bytes.TrimLeft(data[dec.InputOffset():], " \t\r\n")) > 0 {
		return errors.New("there is more behind the value")
	}
	return nil
}
