package akeyless

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

const goodState = `{"version":1,"identity":{"Login":{"Target":{"Address":"https://gw:443","TLS":{}},"Type":"k8s"},"Namespace":"shop"},
	"pod":{},"session":{"value":"t-marker","expires":"2099-01-01T00:00:00Z"},
	"readings":{"x":{"Kind":"static","Body":"\"marker\"","Asked":"2031-01-01T00:00:00Z","Mark":{},"Next":"0001-01-01T00:00:00Z","Ends":"0001-01-01T00:00:00Z"}},
	"own":{"held":[{"Item":"y","Kind":"dynamic","Name":"/y","Body":{"id":"1"},"At":"2031-01-01T00:00:00Z","Due":"2031-01-01T00:00:00Z","Ends":"2099-01-01T00:00:00Z","ID":"1","Login":{"Target":{"Address":"","TLS":{}}}}]},"group":{}}`

func TestImport(t *testing.T) {
	at := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	still := Config{Settings: endpoint.Settings{Now: func() time.Time { return at }}}
	p := newProvider(t, still)
	if err := p.Import("v", secret.NewBytes([]byte(goodState))); err != nil {
		t.Fatal(err)
	}
	if v := p.volumes.Find("v"); v == nil || v.readings.Last("x") == nil || v.holder.get("y") == nil || v.group.login.Current(time.Now(), nil) == nil {
		t.Fatal("a part of the state is gone")
	}
	first := p.Export("v")
	again := newProvider(t, still)
	if err := again.Import("v", first); err != nil {
		t.Fatal(err)
	}
	if second := again.Export("v"); string(second.Reveal()) != string(first.Reveal()) {
		t.Errorf("state changes on its way:\n%s\n%s", first.Reveal(), second.Reveal())
	}
}

func TestImportOfRubbish(t *testing.T) {
	for name, state := range map[string]string{
		"empty": "", "not JSON": "marker", "another version": `{"version":2}`, "no identity": `{"version":1}`,
		"cut off":             goodState[:200],
		"bad tokens":          strings.Replace(goodState, `"pod":{}`, `"pod":{},"tokens":"marker"`, 1),
		"bad address":         strings.Replace(goodState, "https://gw:443", "marker", 1),
		"endless session":     strings.Replace(goodState, `,"expires":"2099-01-01T00:00:00Z"},`, "},", 1),
		"empty session":       strings.Replace(goodState, "t-marker", "", 1),
		"reading of nothing":  strings.Replace(goodState, `"readings":{`, `"readings":{"z":null,`, 1),
		"credential, no kind": strings.Replace(goodState, `"Kind":"dynamic"`, `"Kind":"static"`, 1),
		"null credential":     strings.Replace(goodState, `"held":[`, `"held":[null,`, 1),
	} {
		p := newProvider(t, Config{})
		err := p.Import("v", secret.NewBytes([]byte(state)))
		if fault.Of(err) != fault.State || strings.Contains(err.Error(), "marker") {
			t.Errorf("%s: reason %s: %v", name, fault.Of(err), err)
		}
		if p.Export("v").Len() != 0 {
			t.Errorf("%s: there is a volume", name)
		}
	}
}

func FuzzImport(f *testing.F) {
	f.Add([]byte(goodState))
	f.Add([]byte(`{"version":1,"identity":{},"own":{"replaced":[{"Item":"a","Kind":"pki","Body":1}]},"group":{}}`))
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
		if decode(&endpoint.Reply{Status: 200, Body: []byte(text)}, endpoint.Address{}, &a) != nil {
			return
		}
		tok := newToken(a, now, 1)
		if !tok.expires.After(now) || tok.due.Before(now) || tok.due.After(tok.expires) {
			t.Errorf("%q: due %v, expires %v", text, tok.due, tok.expires)
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
		if err := decode(&endpoint.Reply{Body: []byte(text)}, endpoint.Address{}, &a); err != nil {
			t.Fatal(err)
		}
		if got := a.expires(now).Sub(now); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func jsonNumber(n int64) string {
	text, _ := json.Marshal(n)
	return string(text)
}
