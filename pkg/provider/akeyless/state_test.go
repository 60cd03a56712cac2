package akeyless

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const goodState = `{"version":2,"identity":{"login":{"Target":{"Address":"https://gw:443","TLS":{}},"Type":"k8s"},"namespace":"shop","serviceAccount":"web","serviceAccountUID":"u","audience":"akeyless"},
	"pod":{},"session":{"login":{"Target":{"Address":"https://gw:443","TLS":{}},"Type":"k8s"},"value":"t-marker","born":"2030-01-01T00:00:00Z","ttl":1,"due":"2099-01-01T00:00:00Z","expires":"2099-01-01T00:00:00Z","final":true},
	"readings":[{"request":"static\n/x\n0\n","body":"\"marker\"","about":{"type":"static"},"kind":0,"asked":"2031-01-01T00:00:00Z","read":"2031-01-01T00:00:00Z"}],
	"own":{"held":[{"reading":{"request":"dynamic\n/y\n0\n","body":{"id":"1"},"about":{"type":"dynamic","leaseID":"1"},"kind":3,"asked":"2031-01-01T00:00:00Z","read":"2031-01-01T00:00:00Z","at":"2031-01-01T00:00:00Z","end":"2099-01-01T00:00:00Z"},"name":"/y","login":{"Target":{"Address":"","TLS":{}}},"due":"2031-01-01T00:00:00Z","ends":"2099-01-01T00:00:00Z","token":-1}]},"group":{}}`

func TestImport(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	still := Config{Settings: endpoint.Settings{Now: func() time.Time { return at }}}
	p := newProvider(t, still)
	testkit.Must(t, p.Import("v", secret.NewBytes([]byte(goodState))))
	first := p.Export("v")
	testkit.Has(t, string(first.Reveal()), `"t-marker"`, `\"marker\"`, `"leaseID":"1"`, `"name":"/y"`, `"shop"`)
	again := newProvider(t, still)
	testkit.Must(t, again.Import("v", first))
	if second := again.Export("v"); string(second.Reveal()) != string(first.Reveal()) {
		t.Errorf("state changes on its way:\n%s\n%s", first.Reveal(), second.Reveal())
	}
}

func TestImportOfRubbish(t *testing.T) {
	for name, state := range map[string]string{
		"empty": "", "not JSON": "marker", "another version": `{"version":3}`,
		"of before the engine": `{"version":1,"identity":{"Login":{}},"readings":{"x":{"Kind":"static","Body":"marker"}}}`,
		"cut off":              goodState[:200],
		"bad tokens":           strings.Replace(goodState, `"pod":{}`, `"pod":{},"tokens":"marker"`, 1),
		"bad address":          strings.Replace(goodState, "https://gw:443", "marker", 1),
		"empty session":        strings.Replace(goodState, "t-marker", "", 1),
		"reading of nothing":   strings.Replace(goodState, `"readings":[`, `"readings":[null,`, 1),
		"credential, no kind":  strings.Replace(goodState, `"type":"dynamic"`, `"type":"static"`, 1),
		"null credential":      strings.Replace(goodState, `"held":[`, `"held":[null,`, 1),
	} {
		p := newProvider(t, Config{})
		err := p.Import("v", secret.NewBytes([]byte(state)))
		if fault.Of(err) != fault.State || strings.Contains(err.Error(), "marker") {
			t.Errorf("%s: reason %s: %v", name, fault.Of(err), err)
		}
		testkit.Equal(t, name+": the length of the state", p.Export("v").Len(), 0)
	}
}

func FuzzImport(f *testing.F) {
	f.Add([]byte(goodState))
	f.Add([]byte(`{"version":2,"identity":{},"own":{"replaced":[{"name":"a","leaseID":"1"}]},"group":{}}`))
	f.Fuzz(func(t *testing.T, state []byte) {
		p := newProvider(t, Config{})
		if err := p.Import("v", secret.NewBytes(state)); err != nil {
			return
		}
		if out := p.Export("v"); !json.Valid(out.Reveal()) {
			t.Errorf("%q exports %q", state, out.Reveal())
		}
	})
}

func FuzzAuthAnswer(f *testing.F) {
	for _, s := range []string{`{"token":"t-1","creds":{"expiry":1900000000}}`, `{"expiration":"2031-01-01T00:00:00Z"}`, `{"creds":{"expiry":-5}}`, `{"creds":{"expiry":1.9e12}}`} {
		f.Add(s)
	}
	now := time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		var a authAnswer
		if decode(endpoint.Address{}, &endpoint.Reply{Status: 200, Body: []byte(text)}, &a) != nil {
			return
		}
		if end := a.expires(now); !end.After(now) || end.Year() > 9999 {
			t.Errorf("%q: expires %v", text, end)
		}
	})
}

func TestTokenLife(t *testing.T) {
	now := time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		`{"creds":{"expiry":` + jsonNumber(now.Add(time.Hour).Unix()) + `}}`:      time.Hour,
		`{"creds":{"expiry":` + jsonNumber(now.Add(time.Hour).UnixMilli()) + `}}`: time.Hour,
		`{"expiration":"2031-05-01T12:20:00Z"}`:                                   20 * time.Minute,
		`{}`:                                                                      usualLife, `{"creds":{"expiry":0}}`: usualLife, `{"creds":{"expiry":5}}`: usualLife, `{"expiration":"soon"}`: usualLife,
	} {
		var a authAnswer
		testkit.Must(t, decode(endpoint.Address{}, &endpoint.Reply{Body: []byte(text)}, &a))
		testkit.Equal(t, text+": ends after", a.expires(now).Sub(now), want)
	}
}

func jsonNumber(n int64) string {
	text, _ := json.Marshal(n)
	return string(text)
}
