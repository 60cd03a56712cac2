package endpoint

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestLocal(t *testing.T) {
	for text, want := range map[string]bool{
		"127.0.0.1": true, "127.8.9.10": true, "::1": true, "0.0.0.0": true, "0.1.2.3": true, "::": true,
		"169.254.169.254": true, "169.254.170.23": true, "fe80::1": true, "fe80::1%eth0": true, "224.0.0.1": true, "ff02::1": true, "ff05::2": true, "255.255.255.255": true,
		"fd00:ec2::254": true, "fd20:ce::254": true, "168.63.129.16": true, "100.100.100.200": true, "192.0.0.192": true,
		"::ffff:127.0.0.1": true, "::ffff:169.254.169.254": true, "64:ff9b::169.254.169.254": true, "64:ff9b::7f00:1": true, "::127.0.0.1": true,
		"10.0.0.1": false, "192.168.1.1": false, "172.16.0.1": false, "100.64.0.1": false, "8.8.8.8": false, "2001:db8::1": false, "fd12:3456::1": false, "64:ff9b::8.8.8.8": false,
	} {
		testkit.Equal(t, text+": local", local(netip.MustParseAddr(text)), want)
	}
}

func newTestPool(t *testing.T, list ...string) *Pool {
	t.Helper()
	allowed := testkit.Value(ParseAllowlist(list))(t)
	files := testkit.Value(NewFiles(nil))(t)
	return &Pool{Logger: slog.New(slog.DiscardHandler), Files: files, Allowed: allowed}
}

// TestNameOfLocalAddress: the resolved address counts. An operator's wildcard does not name what
// another's DNS answers.
func TestNameOfLocalAddress(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	port := s.Listener.Addr().(*net.TCPAddr).AddrPort().Port()
	at := func(host string) string {
		return (&url.URL{Scheme: "http", Host: net.JoinHostPort(host, netip.AddrPortFrom(netip.IPv4Unspecified(), port).String()[len("0.0.0.0:"):])}).String()
	}
	for name, c := range map[string]struct {
		list    []string
		address string
		good    bool
	}{
		"address":          {nil, at("127.0.0.1"), false},
		"name":             {nil, at("localhost"), false},
		"unspecified":      {nil, at("0.0.0.0"), false},
		"mapped":           {nil, at("::ffff:127.0.0.1"), false},
		"listed address":   {[]string{at("127.0.0.1")}, at("127.0.0.1"), true},
		"listed name":      {[]string{at("localhost")}, at("localhost"), true},
		"any port of it":   {[]string{"http://localhost:*"}, at("localhost"), true},
		"another port":     {[]string{"http://127.0.0.1:1"}, at("127.0.0.1"), false},
		"another name":     {[]string{at("localhost")}, at("127.0.0.1"), false},
		"only by wildcard": {[]string{"http://*.example:*"}, at("127.0.0.1"), false},
	} {
		address, err := ParseAddress(c.address)
		testkit.Must(t, err)
		e := testkit.Value(newTestPool(t, c.list...).Get(t.Context(), Target{Address: address}, time.Now()))(t)
		err = ask(t, e, address.String())
		if (err == nil) != c.good || !c.good && fault.Of(err) != fault.NotAllowed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func ask(t *testing.T, e *Endpoint, u string) error {
	t.Helper()
	r := testkit.Value(http.NewRequestWithContext(t.Context(), http.MethodGet, u+"/v1/x", nil))(t)
	resp, err := e.Transport().RoundTrip(r)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// TestProxy: the operator's proxy may be on the node, and a class's request to it is refused if it
// has a forbidden literal address.
func TestProxy(t *testing.T) {
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.URL.Host) }))
	defer proxy.Close()
	at := testkit.Value(url.Parse(proxy.URL))(t)
	direct := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the server was asked without the proxy") }))
	defer direct.Close()
	r := newReach(newTestPool(t))
	r.proxy = func(r *http.Request) (*url.URL, error) {
		if r.URL.Host == direct.Listener.Addr().String() {
			return nil, nil
		}
		return at, nil
	}
	e := &Endpoint{transport: &http.Transport{Proxy: r.through, DialContext: r.dial}}
	for address, good := range map[string]bool{
		"http://store.example:8200": true, "http://10.0.0.1": true, "http://169.254.169.254": false, "http://[fd00:ec2::254]": false, direct.URL: false,
	} {
		before := len(asked)
		err := ask(t, e, address)
		if (err == nil) != good || !good && fault.Of(err) != fault.NotAllowed || (len(asked) > before) != good {
			t.Errorf("%s: %v, the proxy was asked for %q", address, err, asked)
		}
	}
}

// FuzzDialled: an allowed address is dialled as it is written.
func FuzzDialled(f *testing.F) {
	for _, s := range []string{
		"https://a.vault.example.com:8200", "http://gw.example/v2", "http://127.0.0.1:81", "https://evil.tenant.vault.example.com:8200",
		"https://evil\u3002tenant.vault.example.com:8200", "https://evil\uff0etenant.vault.example.com:8200", "https://evil\uff61tenant.vault.example.com:8200",
		"https://evil%E3%80%82tenant.vault.example.com:8200", "https://ev%2Eil.vault.example.com:8200", "https://b\u00fccher.vault.example.com:8200",
		"https://GW.Example.", "http://gw.example:080", "https://\u24d0.vault.example.com:8200", "https://a\u00ad.vault.example.com:8200", "http://[::1%25lo]", "https://:8200",
	} {
		f.Add(s)
	}
	list, err := ParseAllowlist([]string{"https://*.vault.example.com:8200", "http://gw.example:*", "https://gw.example"}, Address{scheme: "http", host: "127.0.0.1", port: "81"})
	testkit.Must(f, err)
	errStop := errors.New("stop")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseAddress(text)
		if err != nil || !list.Allows(a) {
			return
		}
		dialled := ""
		dial := func(_ context.Context, _, address string) (net.Conn, error) {
			dialled = address
			return nil, errStop
		}
		tr := &http.Transport{DialContext: dial}
		r, err := http.NewRequest(http.MethodGet, a.URL("/v1/x").String(), nil) //nolint:noctx // nothing is sent
		if err != nil {
			t.Fatalf("%q is allowed, and no URL: %v", text, err)
		}
		if resp, err := tr.RoundTrip(r); !errors.Is(err, errStop) {
			if err == nil {
				_ = resp.Body.Close()
			}
			t.Fatalf("%q is allowed, and net/http says: %v", text, err)
		}
		host, port, err := net.SplitHostPort(dialled)
		testkit.Must(t, err)
		label, wild := strings.CutSuffix(host, ".vault.example.com")
		switch {
		case r.URL.Scheme == "https" && wild && label != "" && !strings.Contains(label, ".") && port == "8200":
		case r.URL.Scheme == "http" && host == "gw.example":
		case r.URL.Scheme == "https" && host == "gw.example" && port == "443":
		case r.URL.Scheme == "http" && host == "127.0.0.1" && port == "81":
		default:
			t.Errorf("%q is allowed, and %s://%s is dialled", text, r.URL.Scheme, dialled)
		}
	})
}
