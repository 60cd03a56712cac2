// Package stored parses the wrapping that the API server's encryption at rest puts around a value
// in etcd: which provider wrote it, and with which key. It decrypts nothing and needs no key.
package stored

import (
	"bytes"
	"errors"
	"fmt"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// The limits of KMS v2 (k8s.io/apiserver value/encrypt/envelope/kmsv2).
const (
	maxKeyID       = 1 << 10
	maxSource      = 1 << 10
	maxAnnotations = 32 << 10
)

// maxName bounds a provider's name, which the operator chooses.
const maxName = 1 << 10

// prefix begins every value of a provider other than identity. The API server's identity provider
// refuses to read a value with this beginning.
const prefix = "k8s:enc:"

// Provider is the kind of provider that wrote a value, in the stored value's spelling.
type Provider string

// The providers of an EncryptionConfiguration.
const (
	Identity  Provider = "identity" // plain text
	KMSv2     Provider = "kms/v2"
	KMSv1     Provider = "kms/v1"
	AESGCM    Provider = "aesgcm"
	AESCBC    Provider = "aescbc"
	Secretbox Provider = "secretbox"
)

// SourceType says what EncryptedSource is.
type SourceType uint64

// The types of KMS v2: a key of its own for each value (API servers before
// 1.29), or a seed that a key is derived from for each value.
const (
	Key  SourceType = 0
	Seed SourceType = 1
)

// Value is what a stored value says about itself.
type Value struct {
	Provider Provider
	// Name is the KMS provider's name in the EncryptionConfiguration, or the key's name for the
	// other providers. Identity has none.
	Name string
	// The rest is for KMS v2 only. KeyID is the announced key id; EncryptedSource and Annotations
	// are from the answer of Encrypt, and share the memory of the parsed value.
	KeyID           string
	EncryptedSource []byte
	Annotations     map[string][]byte
	SourceType      SourceType
	// EncryptedSize is the size of the encrypted object.
	EncryptedSize int
}

// Parse parses a value of etcd. A value without the prefix is plain text, such as protobuf or JSON,
// as for the API server. No error quotes any part of a value except the names of providers and
// keys.
func Parse(value []byte) (Value, error) {
	rest, encrypted := bytes.CutPrefix(value, []byte(prefix))
	if !encrypted {
		return Value{Provider: Identity}, nil
	}
	kind, rest, err := word(rest)
	if err != nil {
		return Value{}, fmt.Errorf("reading the provider after %q: %w", prefix, err)
	}
	version, rest, err := word(rest)
	if err != nil {
		return Value{}, fmt.Errorf("reading the version of provider %q: %w", kind, err)
	}
	provider, err := providerOf(kind, version)
	if err != nil {
		return Value{}, err
	}
	name, rest, err := word(rest)
	if err != nil {
		return Value{}, fmt.Errorf("reading the name after %q: %w", prefix+kind+":"+version+":", err)
	}
	v := Value{Provider: provider, Name: name}
	if provider != KMSv2 {
		return v, nil
	}
	if err := v.parseObject(rest); err != nil {
		return Value{}, fmt.Errorf("reading the value of KMS provider %q: %w", name, err)
	}
	return v, nil
}

func providerOf(kind, version string) (Provider, error) {
	switch {
	case kind == "kms" && version == "v2":
		return KMSv2, nil
	case kind == "kms" && version == "v1":
		return KMSv1, nil
	case version == "v1" && (kind == "aesgcm" || kind == "aescbc" || kind == "secretbox"):
		return Provider(kind), nil
	}
	return "", fmt.Errorf("unknown provider %q of version %q", kind, version)
}

// word returns the text before the next colon.
func word(text []byte) (before string, after []byte, err error) {
	i := bytes.IndexByte(text[:min(len(text), maxName+1)], ':')
	switch {
	case i < 0:
		return "", nil, fmt.Errorf("no colon within %d bytes", maxName)
	case i == 0:
		return "", nil, errors.New("it is empty")
	case !utf8.Valid(text[:i]):
		return "", nil, errors.New("it is not UTF-8")
	}
	return string(text[:i]), text[i+1:], nil
}

// The fields of EncryptedObject (k8s.io/apiserver, kmsv2/v2/api.proto).
const (
	fieldData        = 1
	fieldKeyID       = 2
	fieldSource      = 3
	fieldAnnotations = 4
	fieldType        = 5
)

func (v *Value) parseObject(data []byte) error {
	annotationBytes := 0
	for len(data) > 0 {
		number, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return fmt.Errorf("field tag: %w", protowire.ParseError(n))
		}
		data = data[n:]
		size, err := v.parseField(number, kind, data, &annotationBytes)
		if err != nil {
			return fmt.Errorf("field %d: %w", number, err)
		}
		data = data[size:]
	}
	switch {
	case v.EncryptedSize == 0:
		return errors.New("the encrypted object is missing")
	case v.KeyID == "":
		return errors.New("the key id is missing")
	case len(v.EncryptedSource) == 0:
		return errors.New("the encrypted seed is missing")
	}
	return nil
}

// parseField reads one field and returns its size. It skips unknown fields: later API servers may
// have more.
func (v *Value) parseField(number protowire.Number, kind protowire.Type, data []byte, annotationBytes *int) (int, error) {
	switch {
	case number == fieldType && kind == protowire.VarintType:
		value, n := protowire.ConsumeVarint(data)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		if value > uint64(Seed) {
			return 0, fmt.Errorf("unknown type %d of the encrypted seed", value)
		}
		v.SourceType = SourceType(value)
		return n, nil
	case number < fieldData || number > fieldAnnotations || kind != protowire.BytesType:
		n := protowire.ConsumeFieldValue(number, kind, data)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		if number >= fieldData && number <= fieldType {
			return 0, errors.New("it has the wrong wire type")
		}
		return n, nil
	}
	field, n := protowire.ConsumeBytes(data)
	if n < 0 {
		return 0, protowire.ParseError(n)
	}
	return n, v.setBytes(number, field, annotationBytes)
}

func (v *Value) setBytes(number protowire.Number, field []byte, annotationBytes *int) error {
	switch number {
	case fieldData:
		v.EncryptedSize = len(field)
	case fieldKeyID:
		if len(field) > maxKeyID || !utf8.Valid(field) {
			return fmt.Errorf("the key id is no text of at most %d bytes", maxKeyID)
		}
		v.KeyID = string(field)
	case fieldSource:
		if len(field) > maxSource {
			return fmt.Errorf("the encrypted seed has over %d bytes", maxSource)
		}
		v.EncryptedSource = field
	case fieldAnnotations:
		if *annotationBytes += len(field); *annotationBytes > 2*maxAnnotations {
			return fmt.Errorf("the annotations have over %d bytes", maxAnnotations)
		}
		return v.addAnnotation(field)
	}
	return nil
}

// addAnnotation reads an entry of the map: field 1 is its key, field 2 its
// value.
func (v *Value) addAnnotation(entry []byte) error {
	var key string
	var value []byte
	for len(entry) > 0 {
		number, kind, n := protowire.ConsumeTag(entry)
		if n < 0 {
			return fmt.Errorf("annotation's tag: %w", protowire.ParseError(n))
		}
		entry = entry[n:]
		if n = protowire.ConsumeFieldValue(number, kind, entry); n < 0 {
			return fmt.Errorf("annotation: %w", protowire.ParseError(n))
		}
		if kind == protowire.BytesType {
			switch field, _ := protowire.ConsumeBytes(entry); number {
			case 1:
				if !utf8.Valid(field) {
					return errors.New("an annotation's key is not UTF-8")
				}
				key = string(field)
			case 2:
				value = field
			}
		}
		entry = entry[n:]
	}
	if v.Annotations == nil {
		v.Annotations = map[string][]byte{}
	}
	v.Annotations[key] = value
	return nil
}
