package endpoint_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestParseAddress(t *testing.T) {
	for text, want := range map[string]string{
		"https://api.akeyless.io":     "https://api.akeyless.io:443",
		"http://GW.shop.:8080/v2/":    "http://gw.shop:8080/v2",
		"https://[::ffff:10.0.0.1]/a": "https://10.0.0.1:443/a",
		"https://[fe80::1]:8081":      "https://[fe80::1]:8081",
		"https://gw/a/../b//c":        "https://gw:443/b/c",
		"ftp://gw":                    "!the scheme must be http or https",
		"gw:8080":                     "!the scheme must be http or https",
		"https://":                    "!host",
		"https://user:pw-9@gw":        "!user",
		"https://gw?x=1":              "!query",
		"https://gw#f":                "!fragment",
		"https://gw\n":                "!URL",
		"https:opaque":                "!host",
		"":                            "!the scheme must be http or https",
		"https://gw:port":             "!URL",
		"https://gw:08200":            "https://gw:8200",
		"https://gw:0":                "!port",
		"https://gw:65536":            "!port",
		"https://[fe80::1%25eth0]":    "https://[fe80::1%25eth0]:443",
		"https://*.gw":                "!the host must be",
		"https://xn--bcher-kva.gw":    "https://xn--bcher-kva.gw:443",
		"https://b\u00fccher.gw":      "!in ASCII",
		"https://a\u3002gw":           "!in ASCII",
		"https://a\uff0egw":           "!in ASCII",
		"https://a\uff61gw":           "!in ASCII",
		"https://a%E3%80%82gw":        "!in ASCII",
		"https://a%2Egw":              "!URL",
		"https://a gw":                "!URL",
	} {
		a, err := endpoint.ParseAddress(text)
		if wrong, ok := strings.CutPrefix(want, "!"); ok {
			if err == nil || !strings.Contains(err.Error(), wrong) || strings.Contains(err.Error(), "pw-9") {
				t.Errorf("%q: error %v, want one about %q", text, err, wrong)
			}
			continue
		}
		if err != nil || a.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, a, err, want)
		}
	}
}

func TestParseSocket(t *testing.T) {
	for text, want := range map[string]string{
		"unix:///run/a/../store.sock": "unix:///run/store.sock",
		"unix:///run/50%.sock":        "unix:///run/50%.sock",
		"https://store":               "https://store:443",
		"unix://run/store.sock":       "",
		"unix://":                     "",
		"unix:///run/\u2028":          "",
		"unix:///run/\xff":            "",
	} {
		a, err := endpoint.ParseAddressOrSocket(text)
		if (err == nil) != (want != "") || a.String() != want {
			t.Errorf("%q is %q, %v; want %q", text, a, err, want)
		}
	}
	if a, err := endpoint.ParseAddress("unix:///run/store.sock"); err == nil {
		t.Errorf("a socket is a URL: %s", a)
	}
	a := mustParse(t, "unix:///run/store.sock")
	if got := a.URL("/v1/x").String(); got != "http://localhost/v1/x" || a.Plain() {
		t.Errorf("requests go to %s, plain %v", got, a.Plain())
	}
}

func TestAllowlist(t *testing.T) {
	for _, c := range []struct {
		patterns []string
		own      string
		address  string
		want     bool
	}{
		{nil, "", "http://anything:1", true},
		{nil, "", "unix:///run/containerd.sock", false},
		{nil, "unix:///run/store.sock", "unix:///run/store.sock", true},
		{[]string{"unix:///run/store.sock"}, "", "unix:///run/store.sock", true},
		{[]string{"unix:///run/store.sock"}, "", "unix:///run/other.sock", false},
		{[]string{"unix:///run/*"}, "", "unix:///run/other.sock", false},
		{[]string{"unix:///run/store.sock"}, "", "https://gw.example", false},
		{[]string{"https://gw.example"}, "", "https://gw.example/v2", true},
		{[]string{"https://gw.example"}, "", "http://gw.example", false},
		{[]string{"https://gw.example"}, "", "https://gw.example:8081", false},
		{[]string{"https://gw.example:*"}, "", "https://gw.example:8081", true},
		{[]string{"https://*.example"}, "", "https://a.example", true},
		{[]string{"https://*.example"}, "", "https://a.b.example", false},
		{[]string{"https://*.example"}, "", "https://example", false},
		{[]string{"https://*.0.0.1"}, "", "https://127.0.0.1", false},
		{[]string{"https://*.example"}, "", "https://evil.com/.example", false},
		{[]string{"https://a.example"}, "", "https://A.EXAMPLE.:443/prefix", true},
		{[]string{"https://[::1]:8200"}, "", "https://[0:0::1]:8200", true},
		{[]string{"https://10.0.0.1"}, "", "https://[::ffff:10.0.0.1]", true},
		{[]string{"https://*.example"}, "", "https://a.example.evil", false},
		{[]string{"https://gw.example"}, "https://own:8081/v2", "https://own:8081", true},
		{[]string{"https://gw.example"}, "https://own:8081", "https://own:8082", false},
		{[]string{"https://gw.example"}, "https://own https://second:1/v2", "https://second:1", true},
		{[]string{"https://gw.example"}, "https://own https://second:1", "https://second:2", false},
	} {
		var own []endpoint.Address
		for text := range strings.FieldsSeq(c.own) {
			own = append(own, mustParse(t, text))
		}
		l := testkit.Value(endpoint.ParseAllowlist(c.patterns, own...))(t)
		if got := l.Allows(mustParse(t, c.address)); got != c.want {
			t.Errorf("%q with %q allows %s: %v", c.patterns, c.own, c.address, got)
		}
	}
	for _, bad := range []string{"gw.example", "https://gw/path", "https://g*w", "https://*.*.x", "https://*", "https://*.", "https://*.a\u3002b"} {
		if _, err := endpoint.ParseAllowlist([]string{bad}); err == nil {
			t.Errorf("%q is a pattern", bad)
		}
	}
}

func mustParse(t *testing.T, text string) endpoint.Address {
	t.Helper()
	return testkit.Value(endpoint.ParseAddressOrSocket(text))(t)
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"https://gw:8081/v2", "http://[::1]", "https://u@h", "https://xn--a.b./%2e%2e/c", "HTTPS://GW", "unix:///a/../b?c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := endpoint.ParseAddressOrSocket(text)
		if err != nil {
			return
		}
		again, err := endpoint.ParseAddressOrSocket(a.String())
		if err != nil || again != a {
			t.Errorf("%q gives %q, and that %q, %v", text, a, again, err)
		}
		data, err := json.Marshal(a)
		var back endpoint.Address
		if err != nil || json.Unmarshal(data, &back) != nil || back != a {
			t.Errorf("%q does not come back from JSON: %s, %v", text, data, err)
		}
	})
}

var start = time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)

func TestSettings(t *testing.T) {
	var s endpoint.Settings
	testkit.Must(t, s.Complete())
	if s.RequestTimeout != 10*time.Second || s.RetryBase != 250*time.Millisecond || s.DefaultInterval != 2*time.Minute ||
		s.ReleaseTimeout != 5*time.Second || s.MaxResponseBytes != 16<<20 || s.UserAgent != "mayfly" {
		t.Errorf("the defaults are %+v", s)
	}
	if s.Logger == nil || s.Now == nil {
		t.Error("a part is missing")
	}
	if n := s.Jitter(); n < 0 || n >= 1 {
		t.Errorf("chance is %v", n)
	}
	other := endpoint.Settings{RequestTimeout: time.Second, UserAgent: "x"}
	if err := other.Complete(); err != nil || other.RequestTimeout != time.Second || other.UserAgent != "x" {
		t.Errorf("what was set became %+v, %v", other, err)
	}
	for _, bad := range []endpoint.Settings{
		{RequestTimeout: -1}, {RetryBase: -1}, {DefaultInterval: -1}, {ReleaseTimeout: -1}, {MaxResponseBytes: -1},
	} {
		if err := bad.Complete(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}
