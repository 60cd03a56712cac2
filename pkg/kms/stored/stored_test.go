package stored_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/mayfly-csi/mayfly/pkg/kms/stored"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// object builds a value as the API server does.
type object struct {
	data, source []byte
	keyID        string
	annotations  map[string]string
	kind         uint64
	more         []byte // further fields
}

func (o object) value(name string) []byte {
	b := []byte("k8s:enc:kms:v2:" + name + ":")
	field := func(n protowire.Number, v []byte) {
		if v != nil {
			b = protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
		}
	}
	field(1, o.data)
	if o.keyID != "" {
		field(2, []byte(o.keyID))
	}
	field(3, o.source)
	for k, v := range o.annotations {
		entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), k)
		entry = protowire.AppendString(protowire.AppendTag(entry, 2, protowire.BytesType), v)
		field(4, entry)
	}
	if o.kind != 0 {
		b = protowire.AppendVarint(protowire.AppendTag(b, 5, protowire.VarintType), o.kind)
	}
	return append(b, o.more...)
}

func whole() object {
	return object{data: []byte("sealed"), keyID: "id-1", source: []byte("vault:v1:abc"), kind: 1,
		annotations: map[string]string{"kek.mayfly.dev": "vault:v1:kek"}}
}

func TestParse(t *testing.T) {
	o := whole()
	later := whole()
	later.more = protowire.AppendVarint(protowire.AppendTag(nil, 9, protowire.VarintType), 7)
	want := stored.Value{Provider: stored.KMSv2, Name: "mayfly", KeyID: "id-1", EncryptedSource: o.source,
		Annotations: map[string][]byte{"kek.mayfly.dev": []byte("vault:v1:kek")}, SourceType: stored.Seed, EncryptedSize: 6}
	for name, tc := range map[string]struct {
		value []byte
		want  stored.Value
	}{
		"protobuf":      {[]byte("k8s\x00\n\x0c\n\x02v1\x12\x06Secret"), stored.Value{Provider: stored.Identity}},
		"JSON":          {[]byte(`{"kind":"Secret"}`), stored.Value{Provider: stored.Identity}},
		"empty":         {nil, stored.Value{Provider: stored.Identity}},
		"KMS v2":        {o.value("mayfly"), want},
		"a later field": {later.value("mayfly"), want},
		"KMS v1":        {[]byte("k8s:enc:kms:v1:old:\x00\x01xy"), stored.Value{Provider: stored.KMSv1, Name: "old"}},
		"aescbc":        {[]byte("k8s:enc:aescbc:v1:key1:xyz"), stored.Value{Provider: stored.AESCBC, Name: "key1"}},
		"aesgcm":        {[]byte("k8s:enc:aesgcm:v1:key1:"), stored.Value{Provider: stored.AESGCM, Name: "key1"}},
		"secretbox":     {[]byte("k8s:enc:secretbox:v1:k:x"), stored.Value{Provider: stored.Secretbox, Name: "k"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := stored.Parse(tc.value)
			if err != nil || !reflect.DeepEqual(got, tc.want) {
				t.Errorf("%v\ngot  %+v\nwant %+v", err, got, tc.want)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	with := func(change func(*object)) []byte {
		o := whole()
		change(&o)
		return o.value("mayfly")
	}
	good := whole().value("mayfly")
	for name, tc := range map[string]struct {
		value []byte
		want  string
	}{
		"no provider":          {[]byte("k8s:enc:"), "no colon"},
		"unknown provider":     {[]byte("k8s:enc:rot13:v1:a:x"), `unknown provider "rot13" of version "v1"`},
		"unknown version":      {[]byte("k8s:enc:kms:v3:a:x"), `unknown provider "kms" of version "v3"`},
		"no name":              {[]byte("k8s:enc:kms:v2::x"), "it is empty"},
		"name without end":     {[]byte("k8s:enc:kms:v2:" + strings.Repeat("a", 2000) + ":"), "no colon within 1024 bytes"},
		"name not text":        {[]byte("k8s:enc:aescbc:v1:\xff\xfe:x"), "not UTF-8"},
		"no object":            {with(func(o *object) { o.data = nil }), "the encrypted object is missing"},
		"no key id":            {with(func(o *object) { o.keyID = "" }), "the key id is missing"},
		"no seed":              {with(func(o *object) { o.source = nil }), "the encrypted seed is missing"},
		"unknown type":         {with(func(o *object) { o.kind = 7 }), "unknown type 7"},
		"large seed":           {with(func(o *object) { o.source = make([]byte, 2000) }), "over 1024 bytes"},
		"large key id":         {with(func(o *object) { o.keyID = strings.Repeat("a", 2000) }), "at most 1024 bytes"},
		"large annotations":    {with(func(o *object) { o.annotations = map[string]string{"a.b": strings.Repeat("x", 70<<10)} }), "the annotations"},
		"wrong wire type":      {with(func(o *object) { o.more = protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), 1) }), "wrong wire type"},
		"cut off":              {good[:len(good)-3], "field"},
		"nothing but a prefix": {[]byte("k8s:enc:kms:v2:mayfly:"), "missing"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := stored.Parse(tc.value)
			testkit.Says(t, err, tc.want)
		})
	}
}

// FuzzParse: no value crashes the parser, and no error quotes a sealed value.
func FuzzParse(f *testing.F) {
	f.Add(whole().value("mayfly"))
	f.Add([]byte(`{"kind":"Secret"}`))
	f.Add([]byte("k8s:enc:aescbc:v1:key1:xyz"))
	f.Add([]byte("k8s:enc:kms:v2:a:\x0a\x02ab\x12\x01k\x1a\x01s\x22\x04\x0a\x01a\x12"))
	f.Fuzz(func(t *testing.T, value []byte) {
		v, err := stored.Parse(value)
		if err != nil {
			testkit.Equal(t, "an error and a value", v, stored.Value{})
			return
		}
		plain := !bytes.HasPrefix(value, []byte("k8s:enc:"))
		if plain != (v.Provider == stored.Identity) {
			t.Errorf("provider %q of a value with plain %v", v.Provider, plain)
		}
		if v.Provider == stored.KMSv2 && (v.KeyID == "" || len(v.EncryptedSource) == 0 || v.EncryptedSize == 0) {
			t.Errorf("incomplete: %+v", v)
		}
	})
}
