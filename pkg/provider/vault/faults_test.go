package vault_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// hang takes a request and never answers.
func hang(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// cut promises more than it sends.
func cut(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "1000")
	_, _ = io.WriteString(w, `{"data":{"k":"`+markValue)
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// drop closes the connection without a word.
func drop(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func withHeader(key, value string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(key, value)
		next(w, r)
	}
}

// TestFaults has the store fail in every way, at the login and at the read.
// Each error has its reason, says what a person needs, and gives nothing away.
func TestFaults(t *testing.T) {
	sealed := answering(503, `{"errors":["Vault is sealed"]}`)
	for _, tc := range []struct {
		name string
		do   http.HandlerFunc
		want fault.Reason
		says string
	}{
		{"hanging", hang, fault.Timeout, "no answer within"},
		{"cut mid-answer", cut, fault.Unavailable, "closed the connection before its answer was complete"},
		{"garbage", answering(200, "<html>"+markValue), fault.BadAnswer, "not Vault's JSON"},
		{"half JSON", answering(200, `{"data":{"k":"`+markValue), fault.BadAnswer, "not Vault's JSON"},
		{"JSON of another shape", answering(200, `["`+markValue+`"]`), fault.BadAnswer, "not Vault's JSON"},
		{"wrong types", answering(200, `{"data":{"k":"v"},"auth":7,"lease_duration":"`+markValue+`"}`), fault.BadAnswer, "not Vault's JSON"},
		{"JSON of a proxy", answering(200, `{"status":"maintenance"}`), fault.BadAnswer, ""},
		{"204", answering(204, ""), fault.BadAnswer, ""},
		{"empty", answering(200, ""), fault.BadAnswer, ""},
		{"null", answering(200, "null"), fault.BadAnswer, ""},
		{"no data", answering(200, `{"data":null,"warnings":["mind the gap"]}`), fault.BadAnswer, ""},
		{"sealed", sealed, fault.Unavailable, "an operator must unseal it"},
		{"500", answering(500, `{"errors":["1 error occurred:\n\t* boom\n\n"]}`), fault.Unavailable, "500: 1 error occurred: * boom"},
		{"502 of a proxy", withHeader("Content-Type", "text/html", answering(502, "<html>"+markValue)), fault.Unavailable, "not Vault's (text/html, 23 bytes)"},
		{"412", answering(412, `{"errors":["required index state not present"]}`), fault.Unavailable, "required index"},
		{"473", answering(473, ``), fault.Unavailable, "473"},
		{"429", withHeader("Retry-After", "77", answering(429, `{"errors":["request path: rate limit quota exceeded"]}`)), fault.RateLimited, "quota"},
		{"400", answering(400, `{"errors":["missing parameter"]}`), fault.Rejected, "missing parameter"},
		{"403", answering(403, `{"errors":["permission denied"]}`), fault.Denied, "permission denied"},
		{"404", answering(404, `{"errors":[]}`), fault.NotFound, "404"},
		{"405", answering(405, `{"errors":["unsupported operation"]}`), fault.Rejected, "method: POST"},
		{"501", answering(501, `{"errors":["not initialized"]}`), fault.Unavailable, "not initialised"},
		{"echo", func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			answering(400, fmt.Sprintf(`{"errors":[%q,%q,%q]}`, r.Header.Get("X-Vault-Token"), jwt("sa-uid"), body))(w, r)
		}, fault.Rejected, "[redacted]"},
		{"too large", answering(200, `{"data":{"k":"`+strings.Repeat("x", 5000)+markValue), fault.TooLarge, "larger than 4096 bytes"},
		{"too large error", answering(400, strings.Repeat("x", 5000)+markValue), fault.TooLarge, "larger than 4096 bytes"},
		{"redirect loop", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.String(), http.StatusTemporaryRedirect)
		}, fault.BadAnswer, "307"},
		{"redirect to nowhere", answering(http.StatusTemporaryRedirect, ""), fault.BadAnswer, "Location"},
		{"redirect to a file", withHeader("Location", "file:///etc/passwd", answering(http.StatusTemporaryRedirect, "")), fault.BadAnswer, "no http or https"},
	} {
		for _, at := range []string{"login", "read"} {
			t.Run(tc.name+"/"+at, func(t *testing.T) {
				t.Parallel()
				b := newBroken(t, tc.do)
				if at == "login" {
					b.login = tc.do
				}
				var log bytes.Buffer
				p := newProvider(t, func(c *vault.Config) {
					c.RequestTimeout, c.MaxResponseBytes, c.MaxRetries = 200*time.Millisecond, 4096, 1
					if tc.name != "hanging" {
						c.RequestTimeout = 10 * time.Second
					}
					c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
				})
				payload, err := p.Fetch(t.Context(), brokenRequest("v", b.URL, nil))
				if err == nil || payload != nil {
					t.Fatalf("got %v and %v, want an error", payload, err)
				}
				want := tc.want
				if at == "login" && want == fault.Denied {
					want = fault.Unverified // Vault did not say why
				}
				if got := fault.Of(err); got != want {
					t.Errorf("reason %s, want %s: %v", got, want, err)
				}
				if got := fault.RetryAfter(err); want == fault.RateLimited && got != 77*time.Second {
					t.Errorf("RetryAfter is %s, want 77s: %v", got, err)
				}
				testkit.Says(t, err, tc.says)
				testkit.Says(t, err, b.Listener.Addr().String())
				for _, mark := range []string{markJWT, markToken, markValue} {
					testkit.Lacks(t, fmt.Sprintf("%v %+v %#v %s", err, err, err, &log), mark)
				}
			})
		}
	}
}

// TestRetries counts what is repeated, and what must not be.
func TestRetries(t *testing.T) {
	const post = `[{objectName: a, secretPath: pki/issue/a, secretKey: k, method: POST, secretArgs: {common_name: x}}]`
	const creds = `[{objectName: a, secretPath: database/creds/a, secretKey: k}]`
	for _, tc := range []struct {
		name    string
		objects string
		fail    http.HandlerFunc
		want    int
	}{
		{"GET 500", "", answering(500, `{"errors":["x"]}`), 3},
		{"GET cut", "", cut, 3},
		{"GET 429", "", answering(429, `{"errors":["x"]}`), 3},
		{"GET 412", "", answering(412, `{"errors":["x"]}`), 3},
		{"GET 501", "", answering(501, `{"errors":["x"]}`), 1},
		{"GET 403", "", answering(403, `{"errors":["x"]}`), 1},
		{"GET 404", "", answering(404, `{"errors":[]}`), 1},
		{"POST 500", post, answering(500, `{"errors":["x"]}`), 1},
		{"POST cut", post, cut, 1},
		{"POST 503", post, answering(503, `{"errors":["x"]}`), 3},
		{"POST 429", post, answering(429, `{"errors":["x"]}`), 3},
		{"creds 500", creds, answering(500, `{"errors":["x"]}`), 1},
		{"creds cut", creds, cut, 1},
		{"creds dropped", creds, drop, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := newBroken(t, tc.fail)
			p := newProvider(t, nil)
			params := map[string]string{}
			if tc.objects != "" {
				params["objects"] = tc.objects
			}
			if _, err := p.Fetch(t.Context(), brokenRequest("v", b.URL, params)); err == nil {
				t.Fatal("want an error")
			}
			testkit.Equal(t, "requests", b.count("")-b.count("/login")-b.count("sys/internal/ui/mounts"), tc.want)
		})
	}
}

func TestDeadlineOfTheCaller(t *testing.T) {
	b := newBroken(t, hang)
	p := newProvider(t, func(c *vault.Config) { c.RequestTimeout = time.Minute })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := p.Fetch(ctx, brokenRequest("v", b.URL, nil))
	if fault.Of(err) != fault.Timeout || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %s: %v", fault.Of(err), err)
	}
}

// TestRedirects sends the login to a second server.
func TestRedirects(t *testing.T) {
	active := newBroken(t, answering(200, `{"data":{"k":"v"}}`))
	standby := newBroken(t, nil)
	to := func(base string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", base+r.URL.RequestURI())
			w.WriteHeader(307)
		}
	}
	standby.login, standby.read = to(active.URL), to(active.URL)

	p := newProvider(t, nil)
	wantFile(t, mustFetch(t, p, brokenRequest("v", standby.URL, nil)), "a", "v")
	testkit.Has(t, strings.Join(active.bodys, ""), `"role":"app"`) // the login's body reaches the active node

	behind := newBroken(t, nil) // a proxy that serves the standby below a path
	behind.login, behind.read = standby.Config.Handler.ServeHTTP, standby.Config.Handler.ServeHTTP
	strip := httptest.NewServer(http.StripPrefix("/vault", behind.Config.Handler))
	t.Cleanup(strip.Close)
	wantFile(t, mustFetch(t, p, brokenRequest("w", strip.URL+"/vault", map[string]string{"objects": `[{objectName: a, secretPath: "kv1/a?x=1&version=2", secretKey: k}]`})), "a", "v")

	listed := newProvider(t, func(c *vault.Config) {
		c.DefaultAddress, c.AllowedAddresses = standby.URL, []string{"https://vault.example"}
	})
	testkit.Failure(listed.Fetch(t.Context(), brokenRequest("v", standby.URL, nil)))(t, fault.NotAllowed, "does not allow")

	secure := httptest.NewTLSServer(to(active.URL))
	t.Cleanup(secure.Close)
	testkit.Failure(p.Fetch(t.Context(), brokenRequest("v", secure.URL, map[string]string{"vaultSkipTLSVerify": "true"})))(t, fault.BadAnswer, "redirected from https to")
}

// TestRedirectElsewhere: only the same request on another server is followed. A
// class must not have a server of its author's choice bring the answer of any
// other into the volume.
func TestRedirectElsewhere(t *testing.T) {
	internal := newBroken(t, answering(200, `{"SecretAccessKey":"`+markValue+`"}`))
	for name, target := range map[string]string{
		"another path":    "/latest/meta-data/iam/security-credentials/node-role",
		"a longer path":   "/v1/kv1/a/b",
		"another element": "/v1/kv1/%61%2Fb",
		"a query more":    "/v1/kv1/a?any=query",
		"a fragment":      "/v1/kv1/a#x",
		"no path":         "",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroken(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", internal.URL+target)
				w.WriteHeader(http.StatusTemporaryRedirect)
			})
			testkit.Failure(newProvider(t, nil).Fetch(t.Context(), brokenRequest("v", b.URL, nil)))(t, fault.BadAnswer, "redirected to another path or query, on "+internal.URL)
		})
	}
	if n := internal.count(""); n > 0 {
		t.Errorf("the other server was asked %d times", n)
	}
}

// TestLocalAddresses: without the operator's word a class reaches nothing on the
// node itself, neither by its address nor by a redirect.
func TestLocalAddresses(t *testing.T) {
	local := newBroken(t, answering(200, `{"data":{"k":"v"}}`))
	other := newBroken(t, nil)
	other.login = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, local.URL+r.URL.RequestURI(), http.StatusTemporaryRedirect)
	}
	other.read = other.login
	anyPort := "http://127.0.0.1:*"
	for name, c := range map[string]struct {
		address string
		adjust  func(*vault.Config)
		allowed bool
	}{
		"by address":         {local.URL, func(*vault.Config) {}, false},
		"by redirect":        {other.URL, func(c *vault.Config) { c.DefaultAddress = other.URL }, false},
		"the operator's own": {local.URL, func(c *vault.Config) { c.DefaultAddress = local.URL }, true},
		"with any port":      {other.URL, func(c *vault.Config) { c.AllowedAddresses = []string{anyPort} }, true},
	} {
		t.Run(name, func(t *testing.T) {
			before := local.count("")
			p := newProvider(t, func(config *vault.Config) {
				config.AllowLocalAddresses = false
				c.adjust(config)
			})
			payload, err := p.Fetch(t.Context(), brokenRequest("v", c.address, nil))
			if c.allowed {
				if err != nil || files(payload)["a"] != "v" {
					t.Errorf("got %v", err)
				}
				return
			}
			testkit.Fails(t, err, fault.NotAllowed, "127.0.0.1 is an address of the node itself", "--allow-local-addresses")
			if n := local.count("") - before; n > 0 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

func TestTLSFaults(t *testing.T) {
	secure := httptest.NewUnstartedServer(http.HandlerFunc(answering(200, "")))
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	for _, tc := range []struct {
		name, address string
		params        map[string]string
		want          fault.Reason
		says          string
	}{
		{"unknown authority", secure.URL, nil, fault.Unavailable, "the system's authorities: set vaultCACertPath"},
		{"http to a TLS server", strings.Replace(secure.URL, "https:", "http:", 1), nil, fault.Rejected, "use https://"},
		{"CA file missing", secure.URL, map[string]string{"vaultCACertPath": "/etc/nowhere/ca.pem"}, fault.InvalidClass, `reading "/etc/nowhere/ca.pem" for spec.parameters.vaultCACertPath`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newProvider(t, func(c *vault.Config) { c.ClassFileDirs = []string{"/etc"} })
			testkit.Failure(p.Fetch(t.Context(), brokenRequest("v", tc.address, tc.params)))(t, tc.want, tc.says)
		})
	}
}
