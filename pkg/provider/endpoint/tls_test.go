package endpoint_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/pki"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var names = endpoint.Names{
	Place: "at ", CACertFile: "caFile", CACertDir: "caDir", CACert: "caText", ServerName: "serverName", ClientCertFile: "cert", ClientKeyFile: "key",
}

func asIs(words string) string { return words }

// newPool makes a pool whose operator has the given settings.
func newPool(t testing.TB, operator endpoint.Target) *endpoint.Pool {
	t.Helper()
	files := testkit.Value(endpoint.NewFiles(nil))(t)
	return &endpoint.Pool{Logger: slog.New(slog.DiscardHandler), Names: names, Operator: endpoint.Operator{Target: operator}, Files: files, AllowLocal: true}
}

func getFrom(t testing.TB, target endpoint.Target) (*endpoint.Endpoint, error) {
	t.Helper()
	return newPool(t, target).Get(t.Context(), target, time.Now())
}

func get(e *endpoint.Endpoint) error {
	r, err := http.NewRequest(http.MethodGet, e.Address.URL("/x").String(), nil) //nolint:noctx // a test's own server
	if err != nil {
		return err
	}
	resp, err := e.Transport().RoundTrip(r)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// secure is a TLS server and its authority as PEM. Its certificate is for
// example.com and 127.0.0.1.
func secure(t *testing.T) (endpoint.Address, string) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	return mustParse(t, s.URL), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	testkit.Must(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

func TestVerification(t *testing.T) {
	address, ca := secure(t)
	dir := t.TempDir()
	file := write(t, dir, "ca.pem", ca)
	other, _ := newPair(t)
	write(t, dir, ".hidden", "no certificate")
	write(t, dir, "README", "no certificate")
	for name, c := range map[string]struct {
		tls  endpoint.TLS
		want string // of the hint; empty for success
	}{
		"file":        {endpoint.TLS{CACertFile: file}, ""},
		"directory":   {endpoint.TLS{CACertDir: dir}, ""},
		"inline":      {endpoint.TLS{CACert: ca}, ""},
		"skip":        {endpoint.TLS{SkipVerify: true}, ""},
		"server name": {endpoint.TLS{CACert: ca, ServerName: "example.com"}, ""},
		"system":      {endpoint.TLS{}, "set caFile"},
		"other name":  {endpoint.TLS{CACert: ca, ServerName: "other.test"}, "set serverName"},
		"other file":  {endpoint.TLS{CACertFile: write(t, t.TempDir(), "other.pem", other)}, "the authorities in"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := getFrom(t, endpoint.Target{Address: address, TLS: c.tls})
			testkit.Must(t, err)
			err = get(e)
			if c.want == "" {
				testkit.Check(t, err)
				return
			}
			if err == nil || !endpoint.BadTLS(err) {
				t.Fatalf("error %v", err)
			}
			if f := e.Explain(err, names, asIs); !strings.Contains(f.Hint, c.want) || f.Reason != fault.Unavailable {
				t.Errorf("explained as %s %v", f.Reason, f)
			}
		})
	}
}

func TestUnusableFiles(t *testing.T) {
	dir := t.TempDir()
	text := write(t, dir, "text", "no certificate")
	big := write(t, dir, "big", strings.Repeat("x", 1<<20+1))
	address := mustParse(t, "https://gw")
	for want, settings := range map[string]endpoint.TLS{
		"for at caFile: it holds no PEM":              {CACertFile: text},
		"caFile: no such file":                        {CACertFile: "/nowhere"},
		"caFile: it is not a regular file":            {CACertFile: os.DevNull},
		"caFile: it is larger than":                   {CACertFile: big},
		"caDir: no file in it holds":                  {CACertDir: dir},
		"caDir: no such file":                         {CACertDir: "/nowhere"},
		"at caText holds no PEM":                      {CACert: "-----"},
		"cert: no such file":                          {ClientCertFile: "/nowhere", ClientKeyFile: text},
		"key: no such file":                           {ClientCertFile: text, ClientKeyFile: "/nowhere"},
		"cert: with the key in " + `"` + text + `": `: {ClientCertFile: text, ClientKeyFile: text},
	} {
		testkit.Failure(getFrom(t, endpoint.Target{Address: address, TLS: settings}))(t, fault.InvalidClass, want)
	}
}

// TestFilesChange: a new authority is used, and a file that cannot be read
// leaves the old one.
func TestFilesChange(t *testing.T) {
	address, ca := secure(t)
	dir := t.TempDir()
	file := write(t, dir, "ca.pem", ca)
	target := endpoint.Target{Address: address, TLS: endpoint.TLS{CACertFile: file}}
	pool, now := newPool(t, target), time.Now()
	try := func() error {
		now = now.Add(time.Minute)
		e, err := pool.Get(t.Context(), target, now)
		if err != nil {
			return err
		}
		return get(e)
	}
	testkit.Must(t, try())
	write(t, dir, "ca.pem", "half written")
	if err := try(); err != nil {
		t.Errorf("with a file that cannot be used: %v", err)
	}
	other, _ := newPair(t)
	write(t, dir, "ca.pem", other)
	var unknown x509.UnknownAuthorityError
	if err := try(); !errors.As(err, &unknown) {
		t.Errorf("the new authority is not used: %v", err)
	}
}

func TestClientCertificate(t *testing.T) {
	cert, key := newPair(t)
	dir := t.TempDir()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		testkit.Equal(t, "client certificates", len(r.TLS.PeerCertificates), 1)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	defer s.Close()
	with := endpoint.TLS{SkipVerify: true, ClientCertFile: write(t, dir, "cert", cert), ClientKeyFile: write(t, dir, "key", key)}
	e, err := getFrom(t, endpoint.Target{Address: mustParse(t, s.URL), TLS: with})
	testkit.Must(t, err)
	testkit.Must(t, get(e))
	e = testkit.Value(getFrom(t, endpoint.Target{Address: mustParse(t, s.URL), TLS: endpoint.TLS{SkipVerify: true}}))(t)
	err = get(e)
	if err == nil {
		t.Fatal("the server did without a client certificate")
	}
	testkit.Has(t, e.Explain(err, names, asIs).Hint, "set cert and key")
}

func TestExplain(t *testing.T) {
	pool := newPool(t, endpoint.Target{})
	find := func(url string) *endpoint.Endpoint {
		return testkit.Value(pool.Get(t.Context(), endpoint.Target{Address: mustParse(t, url)}, time.Now()))(t)
	}
	plain := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer plain.Close()
	l := testkit.Value(net.Listen("tcp", "127.0.0.1:0"))(t)
	closed := "http://" + l.Addr().String()
	testkit.Must(t, l.Close())
	for url, want := range map[string]string{
		closed:    "connecting to " + closed,
		plain.URL: "closed the connection before its answer was complete",
		strings.Replace(plain.URL, "http", "https", 1): "use http:// in the address",
		"http://no-such-host.invalid":                  "DNS settings",
	} {
		e := find(url)
		err := get(e)
		if err == nil {
			t.Fatalf("%s answered", url)
		}
		if f := e.Explain(err, names, asIs); !strings.Contains(f.Error(), want) {
			t.Errorf("%s: %v, want %q", url, f, want)
		}
	}
	if !endpoint.NeverSent(get(find(closed))) || endpoint.NeverSent(get(find(plain.URL))) {
		t.Error("only what found no connection was never sent")
	}
}

// TestLateRefusal: a server that wants a certificate may just hang up.
func TestLateRefusal(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer s.Close()
	cert, key := newPair(t)
	dir := t.TempDir()
	pair := endpoint.TLS{SkipVerify: true, ClientCertFile: write(t, dir, "cert", cert), ClientKeyFile: write(t, dir, "key", key)}
	for hint, settings := range map[string]endpoint.TLS{"it may want a client certificate: set cert and key": {SkipVerify: true}, "": pair} {
		e, err := getFrom(t, endpoint.Target{Address: mustParse(t, s.URL), TLS: settings})
		testkit.Must(t, err)
		err = get(e)
		if err == nil {
			t.Fatal("it answered")
		}
		f := e.Explain(err, names, func(words string) string { return strings.ReplaceAll(words, "EOF", "scrubbed") })
		if f.Hint != hint || !strings.Contains(f.Error(), "closed the connection") || !strings.Contains(f.Error(), "scrubbed") {
			t.Errorf("explained as %v, hint %q, want %q", f, f.Hint, hint)
		}
	}
}

// TestSocket also sets a proxy, which a socket is never asked through.
func TestSocket(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	file := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", file) //nolint:noctx // at once
	testkit.Must(t, err)
	var asked []string
	s := &httptest.Server{Listener: l, Config: &http.Server{ //nolint:gosec // a test's own
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.Host+r.URL.Path) }),
	}}
	s.Start()
	defer s.Close()
	e := testkit.Value(getFrom(t, endpoint.Target{Address: mustParse(t, "unix://"+file)}))(t)
	if err := get(e); err != nil || len(asked) != 1 || asked[0] != "localhost/x" {
		t.Errorf("asked %q, %v", asked, err)
	}
}

func TestScrub(t *testing.T) {
	secrets := []secret.String{secret.NewString("marker"), {}}
	for text, want := range map[string]string{
		"two\nlines\tand\x00more": "two lines and more",
		"it is marker, so":        "it is [redacted], so",
		"bWFya2Vy in base64":      "[redacted] in base64",
		"x-marker-1, x-2":         "x-[redacted]-1, [redacted]",
		"eyJhbGciOiJ.eyJpc3M.sig": "[redacted]",
		strings.Repeat("x", 2000): strings.Repeat("x", 1000) + "...",
	} {
		testkit.Equal(t, text, endpoint.Scrub(text, secrets, regexp.MustCompile(`\bx-\w+`)), want)
	}
}

// newPair is a self-signed certificate and its key, as PEM.
func newPair(t *testing.T) (cert, key string) {
	t.Helper()
	made := testkit.Value(pki.SelfSigned(x509.Certificate{IsCA: true, BasicConstraintsValid: true}))(t)
	return string(made.Cert), string(made.Key)
}
