package vault_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// What must not show in any error or log.
const (
	markJWT   = "marker-jwt-5f1e"
	markToken = "marker-vault-token-77ab"
	markValue = "marker-value-c0de"
)

// broken is a server with answers that no real Vault gives on demand. Its login works unless a test
// changes it.
type broken struct {
	*httptest.Server
	login, read http.HandlerFunc

	mu    sync.Mutex
	seen  []string
	bodys []string
}

func newBroken(t testing.TB, read http.HandlerFunc) *broken {
	b := &broken{login: goodLogin(600), read: read}
	b.Server = httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(func() {
		b.CloseClientConnections()
		b.Close()
	})
	return b
}

func (b *broken) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	b.mu.Lock()
	b.seen = append(b.seen, r.Method+" "+r.URL.RequestURI())
	b.bodys = append(b.bodys, string(body))
	next := b.read
	if strings.HasSuffix(r.URL.Path, "/login") {
		next = b.login
	}
	b.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	next(w, r)
}

// setRead changes how reads are answered from now on.
func (b *broken) setRead(read http.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read = read
}

func (b *broken) count(part string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.seen {
		if strings.Contains(s, part) {
			n++
		}
	}
	return n
}

// kubernetesMetadata is how Vault's kubernetes method describes a login of the
// service account of brokenRequest.
const kubernetesMetadata = `{"role":"app","service_account_name":"app","service_account_namespace":"shop","service_account_secret_name":"","service_account_uid":"sa-uid"}`

func goodLogin(ttl int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"auth":{"client_token":%q,"lease_duration":%d,"renewable":true,"token_type":"service",
			"metadata":%s}}`, markToken, ttl, kubernetesMetadata)
	}
}

func answering(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// jwt is a token that says who it is for, without a signature.
func jwt(uid string) string {
	claims, _ := json.Marshal(map[string]any{"jti": markJWT, "kubernetes.io": map[string]any{"serviceaccount": map[string]string{"uid": uid}}})
	return "eyJhbGciOiJub25lIn0." + encode(claims) + "." + markJWT
}

func brokenRequest(volume, address string, params map[string]string) provider.Request {
	all := map[string]string{"roleName": "app", "vaultAddress": address, "objects": `[{objectName: a, secretPath: kv1/a, secretKey: k}]`}
	maps.Copy(all, params)
	return provider.Request{
		Volume: volume,
		Pod:    identity.Pod{Namespace: "shop", Name: volume + "-pod", UID: volume + "-uid", ServiceAccount: "app"},
		Tokens: identity.Tokens{"vault": {
			JWT: secret.NewString(jwt("sa-uid")), Expires: time.Now().Add(time.Hour), Claims: identity.Claims{ServiceAccountUID: "sa-uid"},
		}},
		Class: &class.Class{Ref: class.Ref{Namespace: "shop", Name: "app"}, Provider: "vault", Parameters: all},
	}
}

// checkHeaders notes the Vault token of each request, and refuses unexpected headers.
func checkHeaders(t *testing.T, tokens *[]string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		*tokens = append(*tokens, r.Header.Get("X-Vault-Token"))
		for _, h := range []string{"X-Vault-Namespace", "X-Ambient", "X-Vault-Wrap-Ttl"} {
			if v := r.Header.Get(h); v != "" {
				t.Errorf("header %s: %q", h, v)
			}
		}
		if r.Header.Get("X-Vault-Request") != "true" || len(r.Header.Get("X-Correlation-Id")) != 32 {
			t.Errorf("headers are missing: %v", r.Header)
		}
		next(w, r)
	}
}

// gate is a proxy before a real Vault that can stop letting requests through.
type gate struct {
	*httptest.Server
	mu    sync.Mutex
	proxy http.Handler
	over  http.HandlerFunc // in place of the proxy
	times []time.Time
}

func newGate(t testing.TB, address string) *gate {
	to, err := url.Parse(address)
	testkit.Must(t, err)
	g := &gate{proxy: &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }, ErrorLog: log.New(io.Discard, "", 0)}}
	g.Server = httptest.NewServer(g)
	t.Cleanup(func() {
		g.CloseClientConnections()
		g.Close()
	})
	return g
}

func (g *gate) set(over http.HandlerFunc) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over, g.times = over, nil
}

// hang answers no request. The channel gets a value when one has come.
func (g *gate) hang() (held <-chan struct{}) {
	came := make(chan struct{}, 1)
	g.set(func(w http.ResponseWriter, r *http.Request) {
		select {
		case came <- struct{}{}:
		default: // it was told already
		}
		hang(w, r)
	})
	return came
}

// requests is how many came since the last set.
func (g *gate) requests() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.times)
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	next := g.proxy
	if g.over != nil {
		next = g.over
	}
	g.times = append(g.times, time.Now())
	g.mu.Unlock()
	next.ServeHTTP(w, r)
}
