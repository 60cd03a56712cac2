package vault_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
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
	for _, step := range []func() error{
		func() error { return w.EnableKubernetesAuth(ctx, "kubernetes", iss) },
		func() error { return w.EnableJWTAuth(ctx, "jwt", iss) },
		func() error { return w.Policy(ctx, "app", policy) },
		func() error { return w.Role(ctx, "kubernetes", "app", kubeRole) },
		func() error { return w.Role(ctx, "jwt", "pod", jwtRole) },
		func() error { return w.Role(ctx, "jwt", "plain", plainJWT) },
		func() error { return w.EnableKV(ctx, "kv1", 1) },
		func() error { return w.EnableKV(ctx, "kv2", 2) },
		func() error { return w.EnablePKI(ctx, "pki", "app") },
		func() error { return w.EnableTransit(ctx, "transit", "app") },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *world) stop() int {
	if err := w.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := w.issuer.Close(); err != nil {
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
	tokens, err := identity.ParseTokens(w.issuer.CSITokens(pod, "vault"))
	testkit.Must(t, err)
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
	p, err := vault.New(c)
	testkit.Must(t, err)
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
	mark, err := w.Mark()
	testkit.Must(t, err)
	fn()
	counts, err := w.CountRequests(t.Context(), mark)
	testkit.Must(t, err)
	return counts
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

// newPostgres starts a server for the test, with w's database engine on it and
// a user for static roles.
func newPostgres(t *testing.T, w *world) *postgres.Server {
	t.Helper()
	pg := postgres.New(t)
	pg.Query(t, "CREATE ROLE batch LOGIN PASSWORD 'old'")
	pg.Enable(t, w.Server)
	return pg
}
