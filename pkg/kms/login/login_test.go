package login_test

import (
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/kmsrig"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

var vault *vaulttest.Server

func TestMain(m *testing.M) { os.Exit(kmsrig.Main(m, &vault)) }

type meter struct {
	mu     sync.Mutex
	logins int
	failed int
	ends   time.Time
}

func (m *meter) VaultRequest(string, error, time.Duration) {}

func (m *meter) Login(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.logins++; err != nil {
		m.failed++
	}
}

func (m *meter) TokenEnds(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ends = at
}

func (m *meter) counts() (logins, failed int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.logins, m.failed
}

func connect(t *testing.T, args ...string) (*kms.Connection, *meter) {
	t.Helper()
	m := &meter{}
	c := testkit.Value(kms.Connect(kmsrig.Config(t, args...), m, slog.New(slog.DiscardHandler)))(t)
	return c, m
}

func use(t *testing.T, c *kms.Connection) error {
	t.Helper()
	_, err := c.Transit.Key(t.Context())
	return err
}

func renew(t *testing.T, c *kms.Connection) {
	t.Helper()
	testkit.Value(c.Session.Renew(t.Context(), false))(t)
}

// withLogin replaces the rig's login by another one.
func withLogin(r *kmsrig.Rig, more ...string) []string {
	var args []string
	for _, a := range r.Args() {
		if !strings.HasPrefix(a, "--auth-method") && !strings.HasPrefix(a, "--role-id") && !strings.HasPrefix(a, "--secret-id-file") {
			args = append(args, a)
		}
	}
	return append(args, more...)
}

// A replaced secret id in the file is used at the next login, and one that Vault refused is not
// retried again and again.
func TestSecretIDReplacedInPlace(t *testing.T) {
	r := kmsrig.New(t, vault)
	c, m := connect(t, r.Args()...)
	testkit.Must(t, use(t, c))
	testkit.Must(t, use(t, c))
	if logins, _ := m.counts(); logins != 1 {
		t.Errorf("%d logins for two requests", logins)
	}
	testkit.Must(t, c.Close(t.Context()))
	r.WriteFile("secret-id", "11111111-2222-3333-4444-555555555555")
	for range 5 {
		err := use(t, c)
		if err == nil || !strings.Contains(err.Error(), "--secret-id-file") || !strings.Contains(err.Error(), "auth/approle") || strings.Contains(err.Error(), "11111111-2222") {
			t.Fatalf("a wrong secret id: %v", err)
		}
	}
	if logins, failed := m.counts(); failed != 1 {
		t.Errorf("%d of %d logins failed: the same credentials were tried again at once", failed, logins)
	}
	r.NewSecretID()
	testkit.Must(t, use(t, c))
}

// A missing right is no reason to log in for each request.
func TestDenialIsNoLoginStorm(t *testing.T) {
	r := kmsrig.New(t, vault)
	r.SetPolicy(`path "sys/nothing" { capabilities = ["read"] }`)
	c, m := connect(t, r.Args()...)
	for range 10 {
		err := use(t, c)
		if fault.Of(err) != fault.Denied || !strings.Contains(err.Error(), `must grant "read" on transit/keys/`+r.Key) {
			t.Fatalf("without a policy: %v", err)
		}
	}
	if logins, _ := m.counts(); logins != 1 {
		t.Errorf("%d logins", logins)
	}
	r.SetPolicy(kmsrig.LeastPolicy(r.Key))
	testkit.Must(t, use(t, c))
}

func wrapping(t *testing.T, r *kmsrig.Rig) string {
	t.Helper()
	client := vault.Client()
	client.SetWrappingLookupFunc(func(string, string) string { return "5m" })
	s := testkit.Value(client.Logical().Write("auth/approle/role/"+r.Role()+"/secret-id", nil))(t)
	return s.WrapInfo.Token
}

func TestWrappedSecretID(t *testing.T) {
	r := kmsrig.New(t, vault)
	first := wrapping(t, r)
	r.WriteFile("secret-id", first)
	c, _ := connect(t, r.Args("--secret-id-wrapped")...)
	testkit.Must(t, use(t, c))
	// The wrapping token is used up, and the secret id stays in memory for later logins.
	testkit.Must(t, c.Close(t.Context()))
	testkit.Must(t, use(t, c))
	// A new process cannot use it, and says why.
	again, _ := connect(t, r.Args("--secret-id-wrapped")...)
	if err := use(t, again); err == nil || !strings.Contains(err.Error(), "deliver a new one") || strings.Contains(err.Error(), first) {
		t.Errorf("a spent wrapping token: %v", err)
	}
	r.WriteFile("secret-id", wrapping(t, r))
	testkit.Must(t, use(t, again))
	// A wrapping token of another path may be an attacker's.
	client := vault.Client()
	client.SetWrappingLookupFunc(func(string, string) string { return "5m" })
	s := testkit.Value(client.Logical().Write("sys/wrapping/wrap", map[string]any{"secret_id": "x"}))(t)
	r.WriteFile("secret-id", s.WrapInfo.Token)
	forged, _ := connect(t, r.Args("--secret-id-wrapped")...)
	testkit.Says(t, use(t, forged), "was made by") // a wrapping token of another path
}

func TestTokenFile(t *testing.T) {
	r := kmsrig.New(t, vault)
	token := func() string {
		s := testkit.Value(vault.Client().Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{"p-" + r.Key}}))(t)
		return s.Auth.ClientToken
	}
	first := token()
	path := r.WriteFile("token", first+"\n")
	c, _ := connect(t, withLogin(r, "--auth-method=token-file", "--token-file="+path)...)
	testkit.Must(t, use(t, c))
	testkit.Must(t, vault.Client().Auth().Token().RevokeTree(first))
	testkit.Fails(t, use(t, c), fault.Denied)
	r.WriteFile("token", token()) // as Vault Agent does
	testkit.Must(t, use(t, c))
	testkit.Must(t, os.Truncate(path, 0)) // while it is being written
	testkit.Must(t, use(t, c))
	testkit.Must(t, c.Close(t.Context())) // the token is the agent's to end
	r.WriteFile("token", token())
	testkit.Must(t, use(t, c))
	gone, _ := connect(t, withLogin(r, "--auth-method=token-file", "--token-file="+filepath.Join(r.Dir, "none"))...)
	testkit.Says(t, use(t, gone), "--token-file") // no token file
}

func TestJWT(t *testing.T) {
	r := kmsrig.New(t, vault)
	iss := testkit.Value(issuer.Start(t.Context(), issuer.Options{}))(t)
	t.Cleanup(func() { _ = iss.Close() })
	testkit.Must(t, vault.EnableJWTAuth(t.Context(), "spiffe", iss))
	testkit.Must(t, vault.Role(t.Context(), "spiffe", "kms", map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_audiences": []string{"vault"}, "token_policies": []string{"p-" + r.Key}, "token_ttl": "1m",
	}))
	jwt := func(audience string) string {
		s, _ := iss.Issue(issuer.PodRef{Namespace: "kube-system", ServiceAccount: "kms"}, audience, time.Hour)
		return s
	}
	path := r.WriteFile("jwt", jwt("other"))
	args := withLogin(r, "--auth-method=jwt", "--auth-mount=spiffe", "--auth-role=kms", "--jwt-file="+path)
	c, _ := connect(t, args...)
	if err := use(t, c); err == nil || !strings.Contains(err.Error(), "--jwt-file") || strings.Contains(err.Error(), "eyJ") {
		t.Errorf("a JWT of another audience: %v", err)
	}
	r.WriteFile("jwt", jwt("vault"))
	testkit.Must(t, use(t, c))
}

func TestCertificate(t *testing.T) {
	v := vaulttest.New(t, vaulttest.Options{TLS: true, RequireClientCert: true})
	testkit.Must(t, kmsrig.Prepare(t.Context(), v))
	testkit.Must(t, v.Client().Sys().EnableAuthWithOptions("cert", &api.EnableAuthOptions{Type: "cert"}))
	r := kmsrig.New(t, v)
	ca := testkit.Value(os.ReadFile(v.CAFile))(t)
	tls := []string{"--vault-ca-cert=" + v.CAFile, "--vault-client-cert=" + v.ClientCertFile, "--vault-client-key=" + v.ClientKeyFile}
	c, _ := connect(t, withLogin(r, append(tls, "--auth-method=cert", "--auth-role=node")...)...)
	testkit.Says(t, use(t, c), "TLS must end at Vault") // without a certificate role
	r.Write("auth/cert/certs/node", map[string]any{"certificate": string(ca), "token_policies": "p-" + r.Key, "token_ttl": "2s", "token_max_ttl": "1h"})
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		renew(t, c)
		if err := use(t, c); err != nil && !strings.Contains(err.Error(), "logging in") { // still refused for a moment
			t.Fatal(err)
		}
	}
	testkit.Must(t, use(t, c))
	wrong, _ := connect(t, withLogin(r, "--auth-method=cert", tls[1], tls[2])...)
	testkit.Says(t, use(t, wrong), "--vault-ca-cert") // an authority that is not known
}

// TestInline checks the headers as OpenBao reads them, without an OpenBao.
func TestInline(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	var seen http.Header
	bao := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		seen = q.Header.Clone()
		_, _ = w.Write([]byte(`{"data":{"type":"aes256-gcm96","latest_version":1,"keys":{"1":1}}}`))
	}))
	t.Cleanup(bao.Close)
	c, m := connect(t, r.Args("--auth-inline", "--vault-addr="+bao.URL, "--vault-namespace=team")...)
	testkit.Must(t, use(t, c))
	id := testkit.Value(os.ReadFile(r.SecretIDFile))(t)
	for header, want := range map[string]string{"Role-Id": r.RoleID, "Secret-Id": strings.TrimSpace(string(id))} {
		text, err := base64.RawURLEncoding.DecodeString(seen.Get("X-Vault-Inline-Auth-Parameter-" + header))
		var p struct{ Key, Value string }
		if err != nil || json.Unmarshal(text, &p) != nil || p.Value != want || !strings.EqualFold(strings.ReplaceAll(p.Key, "_", "-"), header) {
			t.Errorf("%s: %q", header, text)
		}
	}
	if seen.Get("X-Vault-Inline-Auth-Path") != "auth/approle/login" || seen.Get("X-Vault-Namespace") != "team" || seen.Get("X-Vault-Token") != "" {
		t.Errorf("headers %v", seen)
	}
	if logins, _ := m.counts(); logins != 0 {
		t.Errorf("%d logins", logins)
	}
	// Vault does not support it, and the error says so.
	c, _ = connect(t, r.Args("--auth-inline")...)
	testkit.Says(t, use(t, c), "--auth-inline") // on a Vault
}

// The files of credentials are bounded, and must be files.
func TestCredentialFiles(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	for name, text := range map[string]string{"empty": "", "two words": "a b", "large": strings.Repeat("x", 65<<10), "a header": "a\r\nX-Vault-Token: b"} {
		path := r.WriteFile("file", text)
		c, _ := connect(t, r.Args("--secret-id-file="+path)...)
		if err := use(t, c); err == nil || !strings.Contains(err.Error(), "--secret-id-file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	c, _ := connect(t, r.Args("--secret-id-file=/dev/zero")...)
	testkit.Says(t, use(t, c), "not a regular file") // a device
}
