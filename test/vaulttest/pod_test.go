package vaulttest_test

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

var web = issuer.PodRef{Namespace: "shop", Pod: "web-0", ServiceAccount: "web", Node: "node-a"}

// fixture is a Vault with both auth methods, in which pods of shop/web may read
// kv1/web, kv2/web, and use pki and transit.
type fixture struct {
	*vaulttest.Server
	issuer *issuer.Issuer
}

func newFixture(t *testing.T) fixture {
	t.Helper()
	iss, err := issuer.Start(t.Context(), issuer.Options{})
	testkit.Must(t, err)
	t.Cleanup(func() { iss.Close() })
	f := fixture{vaulttest.New(t, vaulttest.Options{}), iss}
	ctx := t.Context()
	for _, err := range []error{
		f.EnableKubernetesAuth(ctx, "kubernetes", iss),
		f.EnableJWTAuth(ctx, "jwt", iss),
		f.Policy(ctx, "web", `
			path "kv1/web"            { capabilities = ["read"] }
			path "kv2/data/web"       { capabilities = ["read"] }
			path "pki/issue/web"      { capabilities = ["update"] }
			path "transit/encrypt/web" { capabilities = ["update"] }`),
		f.Role(ctx, "kubernetes", "web", map[string]any{
			"bound_service_account_names":      "web",
			"bound_service_account_namespaces": "shop",
			"audience":                         "vault",
			"token_policies":                   "web",
		}),
		f.Role(ctx, "jwt", "web", map[string]any{
			"role_type":       "jwt",
			"user_claim":      "sub",
			"bound_audiences": "vault",
			"bound_subject":   "system:serviceaccount:shop:web",
			"claim_mappings":  map[string]any{"/kubernetes.io/pod/name": "pod_name"},
			"token_policies":  "web",
		}),
		f.EnableKV(ctx, "kv1", 1),
		f.EnableKV(ctx, "kv2", 2),
		f.EnablePKI(ctx, "pki", "web"),
		f.EnableTransit(ctx, "transit", "web"),
		f.PutKV1(ctx, "kv1", "web", map[string]any{"password": "one"}),
		f.PutKV2(ctx, "kv2", "web", map[string]any{"password": "first"}),
		f.PutKV2(ctx, "kv2", "web", map[string]any{"password": "second"}),
	} {
		testkit.Must(t, err)
	}
	return f
}

// login returns a client that is logged in with a service account token.
func (f fixture) login(t *testing.T, mount, role, token string) (*api.Client, error) {
	t.Helper()
	client := f.Client()
	client.ClearToken()
	secret, err := client.Logical().WriteWithContext(t.Context(), "auth/"+mount+"/login",
		map[string]any{"role": role, "jwt": token})
	if err != nil {
		return nil, err
	}
	client.SetToken(secret.Auth.ClientToken)
	return client, nil
}

func (f fixture) mustLogin(t *testing.T, mount string) *api.Client {
	t.Helper()
	token, _ := f.issuer.Issue(web, "vault", time.Hour)
	client, err := f.login(t, mount, "web", token)
	testkit.Must(t, err)
	return client
}

func TestPod(t *testing.T) {
	f := newFixture(t)
	t.Run("login refused", func(t *testing.T) { testRefusals(t, f) })
	t.Run("deleted", func(t *testing.T) { testDeleted(t, f) })
	for _, mount := range []string{"kubernetes", "jwt"} {
		t.Run(mount, func(t *testing.T) {
			client := f.mustLogin(t, mount)
			t.Run("kv", func(t *testing.T) { testKV(t, client) })
			t.Run("pki", func(t *testing.T) { testPKI(t, client) })
			t.Run("transit", func(t *testing.T) { testTransit(t, client) })
		})
	}
	t.Run("audit", func(t *testing.T) { testAudit(t, f) })
	t.Run("seal", func(t *testing.T) { testSeal(t, f) })
}

func testRefusals(t *testing.T, f fixture) {
	issue := func(pod issuer.PodRef, audience string, ttl time.Duration) string {
		token, _ := f.issuer.Issue(pod, audience, ttl)
		return token
	}
	elsewhere, other := web, web
	elsewhere.Namespace = "bank"
	other.ServiceAccount = "db"
	for name, tc := range map[string]struct {
		mount, role, token string
		code               int
		want               string
	}{
		"kubernetes, namespace":       {"kubernetes", "web", issue(elsewhere, "vault", time.Hour), 403, "namespace not authorized"},
		"kubernetes, service account": {"kubernetes", "web", issue(other, "vault", time.Hour), 403, "service account name not authorized"},
		"kubernetes, audience":        {"kubernetes", "web", issue(web, "openbao", time.Hour), 403, "invalid audience (aud) claim"},
		"kubernetes, expired":         {"kubernetes", "web", issue(web, "vault", -time.Hour), 403, "token is expired"},
		"kubernetes, role":            {"kubernetes", "nobody", issue(web, "vault", time.Hour), 400, `invalid role name "nobody"`},
		"jwt, namespace":              {"jwt", "web", issue(elsewhere, "vault", time.Hour), 400, "invalid subject (sub) claim"},
		"jwt, audience":               {"jwt", "web", issue(web, "openbao", time.Hour), 400, "invalid audience (aud) claim"},
		"jwt, expired":                {"jwt", "web", issue(web, "vault", -time.Hour), 400, "token is expired"},
		"jwt, role":                   {"jwt", "nobody", issue(web, "vault", time.Hour), 400, `role "nobody" could not be found`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.login(t, tc.mount, tc.role, tc.token)
			wantResponse(t, err, tc.code, tc.want)
		})
	}
}

func wantResponse(t *testing.T, err error, code int, text string) {
	t.Helper()
	var resp *api.ResponseError
	if !errors.As(err, &resp) || resp.StatusCode != code || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want status %d and %q", err, code, text)
	}
}

// testDeleted checks that the kubernetes method asks the issuer, and with its own rights.
func testDeleted(t *testing.T, f fixture) {
	gone := web
	gone.Pod = "web-9"
	token, _ := f.issuer.Issue(gone, "vault", time.Hour)
	before := f.issuer.Reviews()
	if _, err := f.login(t, "kubernetes", "web", token); err != nil {
		t.Fatal(err)
	}
	if n := f.issuer.Reviews() - before; n != 1 {
		t.Errorf("a login made %d TokenReviews", n)
	}
	f.issuer.DeletePod(gone)
	_, err := f.login(t, "kubernetes", "web", token)
	wantResponse(t, err, http.StatusForbidden, "permission denied")
}

func testKV(t *testing.T, client *api.Client) {
	ctx := t.Context()
	one, err := client.KVv1("kv1").Get(ctx, "web")
	testkit.Must(t, err)
	if got := one.Data["password"]; got != "one" {
		t.Errorf("kv1: %v", got)
	}
	two, err := client.KVv2("kv2").Get(ctx, "web")
	testkit.Must(t, err)
	if got, version := two.Data["password"], two.VersionMetadata.Version; got != "second" || version != 2 {
		t.Errorf("kv2: %v, version %d", got, version)
	}
	_, err = client.KVv2("kv2").Get(ctx, "other")
	wantResponse(t, err, http.StatusForbidden, "permission denied")
}

func testPKI(t *testing.T, client *api.Client) {
	secret, err := client.Logical().WriteWithContext(t.Context(), "pki/issue/web",
		map[string]any{"common_name": "web.shop", "ttl": "1h"})
	testkit.Must(t, err)
	text, _ := secret.Data["certificate"].(string)
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no certificate in %v", secret.Data)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	testkit.Must(t, err)
	if cert.Subject.CommonName != "web.shop" {
		t.Errorf("certificate is for %q", cert.Subject.CommonName)
	}
}

func testTransit(t *testing.T, client *api.Client) {
	secret, err := client.Logical().WriteWithContext(t.Context(), "transit/encrypt/web",
		map[string]any{"plaintext": "c2VjcmV0"})
	testkit.Must(t, err)
	if text, _ := secret.Data["ciphertext"].(string); !strings.HasPrefix(text, "vault:v1:") {
		t.Errorf("ciphertext %q", text)
	}
}

func testAudit(t *testing.T, f fixture) {
	mark, err := f.Mark()
	testkit.Must(t, err)
	for _, mount := range []string{"kubernetes", "jwt"} {
		testKV(t, f.mustLogin(t, mount))
	}
	counts, err := f.CountRequests(t.Context(), mark)
	testkit.Must(t, err)
	for path, want := range map[string]int{
		"auth/kubernetes/login": 1, "auth/jwt/login": 1,
		"kv1/web": 2, "kv2/data/web": 2, "kv2/data/other": 2,
	} {
		if counts[path] != want {
			t.Errorf("%d requests for %s, want %d", counts[path], path, want)
		}
	}
	if all, kv2 := counts.Under(""), counts.Under("kv2/"); all != 8 || kv2 != 4 {
		t.Errorf("%d requests, %d under kv2; want 8 and 4: %v", all, kv2, counts)
	}
	entries, err := f.AuditEntriesSince(t.Context(), mark)
	testkit.Must(t, err)
	whole, err := f.AuditEntries(t.Context())
	if err != nil || len(whole) <= len(entries) {
		t.Errorf("the whole log has %d entries, its end %d: %v", len(whole), len(entries), err)
	}
	checkEntry(t, entries, "auth/kubernetes/login", "update", "kubernetes-shop-web", "service_account_name", "web")
	checkEntry(t, entries, "kv2/data/web", "read", "kubernetes-shop-web", "service_account_namespace", "shop")
	checkEntry(t, entries, "kv2/data/web", "read", "jwt-system:serviceaccount:shop:web", "pod_name", "web-0")
	refused := find(entries, "kv2/data/other", "kubernetes-shop-web")
	if refused == nil || !strings.Contains(refused.Error, "permission denied") {
		t.Errorf("the refused read is recorded as %+v", refused)
	}
}

func checkEntry(t *testing.T, entries []vaulttest.AuditEntry, path, operation, who, key, value string) {
	t.Helper()
	e := find(entries, path, who)
	if e == nil {
		t.Errorf("no entry for %s by %s in %+v", path, who, entries)
		return
	}
	if e.Operation != operation || e.Metadata[key] != value || e.Error != "" || e.Time.IsZero() || e.RequestID == "" {
		t.Errorf("entry for %s by %s reads %+v", path, who, *e)
	}
}

func find(entries []vaulttest.AuditEntry, path, who string) *vaulttest.AuditEntry {
	for i, e := range entries {
		if e.Type == "response" && e.Path == path && e.DisplayName == who {
			return &entries[i]
		}
	}
	return nil
}

func testSeal(t *testing.T, f fixture) {
	client := f.mustLogin(t, "kubernetes")
	testkit.Must(t, f.Seal(t.Context()))
	_, err := client.KVv1("kv1").Get(t.Context(), "web")
	wantResponse(t, err, http.StatusServiceUnavailable, "Vault is sealed")
	testkit.Must(t, f.Unseal(t.Context()))
	testKV(t, client)
}
