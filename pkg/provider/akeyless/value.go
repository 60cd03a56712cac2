package akeyless

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/params"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// keep returns a value for objects with some keys, in memory of its own: all of it if it
// has at most whole bytes. room reports whether there is memory for so many bytes.
func keep(k kind, raw []byte, keys []string, whole int, room func(int64) error) (*session.Answer, error) {
	if len(raw) <= whole {
		return &session.Answer{Type: string(k), Body: bytes.Clone(raw)}, nil
	}
	part, err := params.TakePart(keys, func(key string) []byte { return pick(k, raw, key) }, func() string { return keysOf(k, raw) }, room)
	return &session.Answer{Type: string(k), Part: part}, err
}

// File implements session.Store.
func (p *Provider) File(o *session.Object, a *session.Answer) ([]byte, error) {
	k := kind(a.Type)
	return o.Content(a, func(key string) []byte { return pick(k, a.Body, key) }, func() string { return keysOf(k, a.Body) })
}

// pick finds a key in a value, the whole for ""; nil if there is none. A string may be
// JSON, and some types of rotated secrets have their keys one level down.
func pick(k kind, raw []byte, key string) []byte {
	if key == "" {
		return raw
	}
	for _, level := range levels(k, raw) {
		if v := params.Pick(level, key); v != nil {
			return v
		}
	}
	return nil
}

// innerLevels are the keys of rotated secrets whose values may have keys.
var innerLevels = []string{"payload", "target_value"}

// levels returns the JSON objects in which to look for keys, the value itself first.
func levels(k kind, raw []byte) [][]byte {
	first := asObject(raw)
	if first == nil {
		return nil
	}
	list := [][]byte{first}
	if k != rotated {
		return list
	}
	for _, inner := range innerLevels {
		if deeper := asObject(params.Member(first, inner)); deeper != nil {
			list = append(list, deeper)
		}
	}
	return list
}

// Values implements session.Store. A key whose value has keys of its own one level down is
// not one of them.
func (p *Provider) Values(a *session.Answer) (map[string][]byte, error) {
	raw := a.Body
	if raw == nil {
		raw = a.Part.Taken[""]
	}
	all := map[string][]byte{}
	for i, level := range levels(kind(a.Type), raw) {
		values, err := params.Values(level)
		if err != nil {
			return nil, err
		}
		for _, inner := range innerLevels {
			if i == 0 && kind(a.Type) == rotated && asObject(values[inner]) != nil {
				delete(values, inner)
			}
		}
		for key, value := range values {
			if all[key] == nil {
				all[key] = value
			}
		}
	}
	return all, nil
}

func asObject(raw []byte) []byte {
	if params.IsObject(raw) {
		return raw
	}
	var text string
	if !params.IsText(raw) || json.Unmarshal(raw, &text) != nil || !strings.HasPrefix(strings.TrimSpace(text), "{") {
		return nil
	}
	if inner := []byte(text); json.Valid(inner) {
		return inner
	}
	return nil
}

func keysOf(k kind, raw []byte) string {
	var all []string
	for _, level := range levels(k, raw) {
		all = append(all, params.Keys(level))
	}
	if len(all) == 0 {
		return ": it is no JSON object"
	}
	return "; it has " + strings.Join(all, ", and inside ")
}

// Version implements session.Store: a hash, after the version number that the class asks
// for.
func (p *Provider) Version(o *session.Object, _ *session.Answer, hash func() string) string {
	if number := itemOf(o.Request).version; number != 0 {
		return fmt.Sprintf("%d-%s", number, hash())
	}
	return hash()
}

// notAfter returns the end of the first certificate in a PEM text.
func notAfter(text string) (time.Time, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return time.Time{}, errors.New("it is not PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, errors.New("it is not X.509")
	}
	return c.NotAfter, nil
}
