package vault_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/postgres"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// shared is the Vault of the tests that do not stop or seal it.
var shared *world

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	w, err := startWorld(context.Background(), vaulttest.Options{Progress: os.Stderr})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	shared = w
	code := m.Run()
	return max(code, w.stop())
}

// world is a real Vault with a real token issuer, and pods to ask it.
type world struct {
	*vaulttest.Server
	issuer *issuer.Issuer
	pods   atomic.Int64
}

const policy = `
path "kv1/*"              { capabilities = ["read"] }
path "kv2/data/*"         { capabilities = ["read"] }
path "pki/issue/*"        { capabilities = ["update"] }
path "transit/*"          { capabilities = ["update"] }
path "ssh/*"              { capabilities = ["update"] }
path "auth/approle/role/+/secret-id" { capabilities = ["update"] }
path "database/*"         { capabilities = ["read"] }
path "kv1/forbidden"      { capabilities = ["deny"] }
path "kv2/data/forbidden" { capabilities = ["deny"] }
path "kv2/metadata/watched/*" { capabilities = ["read"] }`

func startWorld(ctx context.Context, opts vaulttest.Options) (*world, error) {
	iss, err := issuer.Start(ctx, issuer.Options{})
	if err != nil {
		return nil, err
	}
	server, err := vaulttest.Start(ctx, opts)
	if err != nil {
		return nil, err
	}
	w := &world{Server: server, issuer: iss}
	kubeRole := map[string]any{
		"bound_service_account_names": "app,web-*", "bound_service_account_namespaces": "shop",
		"audience": "vault", "policies": "app", "token_ttl": "1h",
	}
	jwtRole := map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "policies": "app", "token_ttl": "1h",
		"bound_claims":   map[string]any{"/kubernetes.io/namespace": "shop"},
		"claim_mappings": map[string]any{"/kubernetes.io/pod/uid": "pod_uid"},
	}
	plainJWT := map[string]any{"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "policies": "app", "token_ttl": "1h"}
	return w, errors.Join(
		w.EnableKubernetesAuth(ctx, "kubernetes", iss), w.EnableJWTAuth(ctx, "jwt", iss), w.Policy(ctx, "app", policy),
		w.Role(ctx, "kubernetes", "app", kubeRole), w.Role(ctx, "jwt", "pod", jwtRole), w.Role(ctx, "jwt", "plain", plainJWT),
		w.EnableKV(ctx, "kv1", 1), w.EnableKV(ctx, "kv2", 2), w.EnablePKI(ctx, "pki", "app"), w.EnableTransit(ctx, "transit", "app"),
	)
}

func (w *world) stop() int {
	if err := errors.Join(w.Stop(), w.issuer.Close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// pod is a new pod of a service account of namespace shop.
func (w *world) pod(account string) issuer.PodRef {
	n := w.pods.Add(1)
	return issuer.PodRef{Namespace: "shop", Pod: fmt.Sprintf("pod-%d", n), PodUID: fmt.Sprintf("uid-of-pod-%d", n), ServiceAccount: account}
}

// request is the request of a pod's volume.
func (w *world) request(t testing.TB, pod issuer.PodRef, params map[string]string, objects string) provider.Request {
	t.Helper()
	tokens := testkit.Value(identity.ParseTokens(w.issuer.CSITokens(pod, "vault")))(t)
	all := map[string]string{"roleName": "app", "vaultAddress": w.Address, "objects": objects}
	maps.Copy(all, params)
	return provider.Request{
		Volume: "csi-" + pod.Pod,
		Pod:    identity.Pod{Namespace: pod.Namespace, Name: pod.Pod, UID: pod.PodUID, ServiceAccount: pod.ServiceAccount},
		Tokens: tokens,
		Class:  &class.Class{Ref: class.Ref{Namespace: pod.Namespace, Name: "app"}, Provider: "vault", Parameters: all},
	}
}

func (w *world) kv1(t testing.TB, path string, data map[string]any) {
	t.Helper()
	testkit.Must(t, w.PutKV1(t.Context(), "kv1", path, data))
}

func (w *world) kv2(t testing.TB, path string, data map[string]any) {
	t.Helper()
	testkit.Must(t, w.PutKV2(t.Context(), "kv2", path, data))
}

// clock is a clock that tests move.
type clock struct {
	offset atomic.Int64
	// stopped is the time of a clock that only advance moves; zero for one that follows the real time.
	stopped time.Time
}

func (c *clock) now() time.Time {
	now := c.stopped
	if now.IsZero() {
		now = time.Now()
	}
	return now.Add(time.Duration(c.offset.Load()))
}

func (c *clock) advance(d time.Duration) { c.offset.Add(int64(d)) }

func newProvider(t testing.TB, adjust func(*vault.Config)) *vault.Provider {
	t.Helper()
	c := vault.Config{
		Name: vault.NameVault,
		Settings: endpoint.Settings{
			RetryBase: time.Millisecond, MaxRetries: 2, RequestTimeout: 5 * time.Second,
		},
	}
	// The tests' servers are on the loopback interface.
	c.AllowLocalAddresses = true
	if adjust != nil {
		adjust(&c)
	}
	p := testkit.Value(vault.New(c))(t)
	t.Cleanup(p.Close)
	return p
}

func mustFetch(t testing.TB, p provider.Provider, r provider.Request) *provider.Payload {
	t.Helper()
	payload, err := p.Fetch(t.Context(), r)
	if err != nil {
		t.Fatalf("Fetch: %v", err)
	}
	return payload
}

func files(p *provider.Payload) map[string]string {
	m := map[string]string{}
	for _, f := range p.Files {
		m[f.Path] = string(f.Contents.Reveal())
	}
	return m
}

func wantFile(t *testing.T, p *provider.Payload, name, want string) {
	t.Helper()
	if got, ok := files(p)[name]; !ok || got != want {
		t.Errorf("file %s: got %q (there: %v), want %q", name, got, ok, want)
	}
}

// counted counts what reaches Vault by path while fn runs.
func (w *world) counted(t testing.TB, fn func()) vaulttest.Counts {
	t.Helper()
	mark := testkit.Value(w.Mark())(t)
	fn()
	return testkit.Value(w.CountRequests(t.Context(), mark))(t)
}

func under(c vaulttest.Counts, part string) (n int) {
	for key, count := range c {
		if strings.Contains(key, part) {
			n += count
		}
	}
	return n
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// databaseWorld has a database engine of its own too, whose role app gives credentials for an hour.
func databaseWorld(t *testing.T) (*world, *postgres.Server) {
	t.Helper()
	w := ownWorld(t)
	pg := newPostgres(t, w)
	pg.Role(t, w.Server, "app", "1h", "24h")
	return w, pg
}

// newPostgres starts a server for the test, with w's database engine on it and
// a user for static roles.
func newPostgres(t *testing.T, w *world) *postgres.Server {
	t.Helper()
	pg := postgres.New(t)
	pg.Query(t, "CREATE ROLE batch LOGIN PASSWORD 'old'")
	pg.Enable(t, w.Server)
	return pg
}

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
			testkit.Equal(t, "header "+h, r.Header.Get(h), "")
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
	to := testkit.Value(url.Parse(address))(t)
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
