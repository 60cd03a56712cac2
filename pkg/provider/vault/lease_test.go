package vault_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
)

const dbObjects = `
- {objectName: user, secretPath: database/creds/app, secretKey: username}
- {objectName: password, secretPath: database/creds/app, secretKey: password}
- {objectName: static, secretPath: kv1/share, secretKey: k}
`

// watch fetches whenever the payload says so, for a while, and checks each.
func watch(t *testing.T, p provider.Provider, r provider.Request, d time.Duration, check func(*provider.Payload)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	for {
		payload := mustFetch(t, p, r)
		check(payload)
		wait := time.NewTimer(time.Until(payload.RefreshAt))
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
	}
}

// TestLeases lives through several max TTLs of a database role, and of the
// Vault token, on the real clock. At no moment do the files hold a credential
// that the database refuses; in the end it is gone from there.
func TestLeases(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	pg := newPostgres(t, w)
	w.putShare(t, "v")
	pg.Role(t, w.Server, "app", "3s", "7s")
	if err := w.Write(t.Context(), "auth/kubernetes/role/app", map[string]any{"token_ttl": "4s", "token_max_ttl": "11s"}); err != nil {
		t.Fatal(err)
	}
	p := newProvider(t, nil)
	r := w.request(t, w.pod("app"), nil, dbObjects)
	seen := map[string]string{}
	counts := w.counted(t, func() {
		watch(t, p, r, 24*time.Second, func(payload *provider.Payload) {
			f := files(payload)
			if old, ok := seen[f["user"]]; ok && old != f["password"] {
				t.Errorf("user %s with two passwords: values of two answers were mixed", f["user"])
			}
			seen[f["user"]] = f["password"]
			if !pg.LogsIn(t, f["user"], f["password"]) {
				t.Errorf("the database refuses what is in the files: %s", f["user"])
			}
			if len(payload.Leases) != 2 || payload.Leases[0].ID == "" || !payload.Leases[0].Expires.After(payload.RefreshAt) {
				t.Errorf("leases %+v, to be looked at %s", payload.Leases, payload.RefreshAt)
			}
		})
	})
	// 24 s are at least three max TTLs of 7 s; renewing keeps it from being
	// one credential for each 2 s.
	if n := counts["database/creds/app"]; n != len(seen) || n < 3 || n > 9 {
		t.Errorf("%d credentials made, %d seen, want between 3 and 9", n, len(seen))
	}
	if counts["sys/leases/renew"] == 0 || counts["auth/token/renew-self"] == 0 {
		t.Errorf("nothing was renewed: %v", counts)
	}
	if n := counts["kv1/share"]; n != 1 {
		t.Errorf("%d reads of a KV secret within its interval, want 1", n)
	}
	if err := p.Release(t.Context(), r.Volume); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "all roles are gone from the database", func() bool { return pg.Users(t) == 0 })
}

// TestOwnCredentials gives each pod its own, and ends only its own.
func TestOwnCredentials(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	pg := newPostgres(t, w)
	w.putShare(t, "v")
	pg.Role(t, w.Server, "app", "1h", "24h")
	p := newProvider(t, nil)
	var requests []provider.Request
	for range 12 {
		requests = append(requests, w.request(t, w.pod("app"), nil, dbObjects))
	}
	counts := w.counted(t, func() { fetchAll(t, p, 12, requests) })
	if counts["database/creds/app"] != 12 || under(counts, "/login") != 13 || counts["kv1/share"] != 1 {
		t.Errorf("requests %v, want 12 credentials under 12 logins, and one login and read for what is shared", counts)
	}
	users := map[string]bool{}
	counts = w.counted(t, func() {
		for _, r := range requests {
			r.Fresh = true // makes no credential anew
			users[files(mustFetch(t, p, r))["user"]] = true
		}
	})
	if len(users) != 12 || counts["database/creds/app"] != 0 {
		t.Errorf("%d users for 12 pods; then %v", len(users), counts)
	}
	if err := p.Release(t.Context(), requests[0].Volume); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "one role is gone", func() bool { return pg.Users(t) == 11 })
	f := files(mustFetch(t, p, requests[1]))
	if !pg.LogsIn(t, f["user"], f["password"]) {
		t.Error("the end of one pod ended another's credential")
	}
	for _, r := range requests[1:] {
		if err := p.Release(t.Context(), r.Volume); err != nil {
			t.Error(err)
		}
	}
	eventually(t, 10*time.Second, "all roles are gone", func() bool { return pg.Users(t) == 0 })
}

func TestSharedCredentials(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	pg := newPostgres(t, w)
	w.putShare(t, "v")
	pg.Role(t, w.Server, "app", "1h", "24h")
	p := newProvider(t, nil)
	var requests []provider.Request
	for range 6 {
		r := w.request(t, w.pod("app"), nil, dbObjects)
		r.Class.CredentialScope = class.ScopeServiceAccount
		requests = append(requests, r)
	}
	counts := w.counted(t, func() { fetchAll(t, p, 6, requests) })
	if counts["database/creds/app"] != 1 || under(counts, "/login") != 2 {
		t.Errorf("requests %v, want one credential", counts)
	}
	for _, r := range requests[1:] {
		if err := p.Release(t.Context(), r.Volume); err != nil {
			t.Fatal(err)
		}
	}
	f := files(mustFetch(t, p, requests[0]))
	if !pg.LogsIn(t, f["user"], f["password"]) {
		t.Error("a credential that is still shared was ended")
	}
	if err := p.Release(t.Context(), requests[0].Volume); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the role is gone", func() bool { return pg.Users(t) == 0 })
}

// TestUnexpectedLease leases under a path that does not look like it, for
// several pods at once: no lease is lost, and each pod gets its own.
func TestUnexpectedLease(t *testing.T) {
	t.Parallel()
	const pods = 6
	w := ownWorld(t)
	p := newProvider(t, nil)
	if err := w.Write(t.Context(), "pki/roles/leasing", map[string]any{"allow_any_name": true, "ttl": "1h", "generate_lease": true, "key_type": "ec", "key_bits": 256}); err != nil {
		t.Fatal(err)
	}
	objects := "- {objectName: cert, secretPath: pki/issue/leasing, secretKey: certificate, method: PUT, secretArgs: {common_name: a.example}}"
	var requests []provider.Request
	for range pods {
		requests = append(requests, w.request(t, w.pod("app"), nil, objects))
	}
	fetchAll(t, p, pods, requests)
	counts := w.counted(t, func() { fetchAll(t, p, pods, requests) })
	if counts["pki/issue/leasing"] != 0 {
		t.Errorf("%d certificates made anew for nothing", counts["pki/issue/leasing"])
	}
	certs := map[string]bool{}
	for _, r := range requests {
		certs[files(mustFetch(t, p, r))["cert"]] = true
	}
	if len(certs) != pods {
		t.Errorf("%d certificates for %d pods", len(certs), pods)
	}
	for _, r := range requests {
		if err := p.Release(t.Context(), r.Volume); err != nil {
			t.Error(err)
		}
	}
	eventually(t, 15*time.Second, "no lease is left when all volumes are gone", func() bool {
		return len(w.leases(t, "sys/leases/lookup/pki/issue/leasing")) == 0
	})
}

// leases lists what Vault knows under a prefix.
func (w *world) leases(t *testing.T, path string) []any {
	t.Helper()
	s, err := w.Client().Logical().ListWithContext(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if s == nil {
		return nil
	}
	keys, _ := s.Data["keys"].([]any)
	return keys
}

// TestCertificates lives through several short lives of a certificate. The
// files never hold one that is over, nor a key of another.
func TestCertificates(t *testing.T) {
	t.Parallel()
	w := shared
	p := newProvider(t, func(c *vault.Config) { c.DefaultInterval = 50 * time.Millisecond })
	objects := `
- {objectName: tls.crt, secretPath: pki/issue/app, secretKey: certificate, method: POST, secretArgs: {common_name: a.example, ttl: 5s}}
- {objectName: tls.key, secretPath: pki/issue/app, secretKey: private_key, method: POST, secretArgs: {common_name: a.example, ttl: 5s}}
- {objectName: other.crt, secretPath: pki/issue/app, secretKey: certificate, method: POST, secretArgs: {common_name: b.example, ttl: 1h}}`
	r := w.request(t, w.pod("app"), nil, objects)
	counts := w.counted(t, func() {
		watch(t, p, r, 12*time.Second, func(payload *provider.Payload) {
			f := files(payload)
			if _, err := tls.X509KeyPair([]byte(f["tls.crt"]), []byte(f["tls.key"])); err != nil {
				t.Errorf("certificate and key do not belong together: %v", err)
			}
			block, _ := pem.Decode([]byte(f["tls.crt"]))
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(cert.NotAfter); left < 0 {
				t.Errorf("the certificate is over since %s", -left)
			}
			if !payload.RefreshAt.Before(cert.NotAfter) {
				t.Errorf("the next look is at %s, the certificate ends at %s", payload.RefreshAt, cert.NotAfter)
			}
		})
		r.Fresh = true
		mustFetch(t, p, r)
	})
	if n := counts["pki/issue/app"]; n < 4 || n > 8 {
		t.Errorf("%d certificates issued in 12 s of lives of 5 s, want about 4 of one and 1 of the other", n)
	}
}

// TestStaticRole follows rotations on Vault's own schedule.
func TestStaticRole(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	newPostgres(t, w)
	err := w.Write(t.Context(), "database/static-roles/batch", map[string]any{"db_name": "pg", "username": "batch", "rotation_period": "5s"})
	if err != nil {
		t.Fatal(err)
	}
	p := newProvider(t, nil)
	r := w.request(t, w.pod("app"), nil, `
- {objectName: user, secretPath: database/static-creds/batch, secretKey: username}
- {objectName: password, secretPath: database/static-creds/batch, secretKey: password}`)
	passwords := map[string]bool{}
	counts := w.counted(t, func() {
		watch(t, p, r, 20*time.Second, func(payload *provider.Payload) {
			f := files(payload)
			passwords[f["password"]] = true
			if len(payload.Leases) != 0 {
				t.Errorf("a static role has no lease: %+v", payload.Leases)
			}
		})
	})
	if len(passwords) < 2 {
		t.Errorf("%d passwords in 20 s, rotated every 5 s or so", len(passwords))
	}
	if n := counts["database/static-creds/batch"]; n > 20 {
		t.Errorf("%d reads in 20 s", n)
	}
}

// TestBatchTokens has Vault tokens that cannot be renewed and leases
// that would live longer.
func TestBatchTokens(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	pg := newPostgres(t, w)
	w.putShare(t, "v")
	pg.Role(t, w.Server, "app", "1h", "24h")
	if err := w.Write(t.Context(), "auth/kubernetes/role/app", map[string]any{"token_type": "batch", "token_ttl": "5s"}); err != nil {
		t.Fatal(err)
	}
	p := newProvider(t, nil)
	r := w.request(t, w.pod("app"), nil, dbObjects)
	users := map[string]bool{}
	watch(t, p, r, 9*time.Second, func(payload *provider.Payload) {
		f := files(payload)
		users[f["user"]] = true
		if !pg.LogsIn(t, f["user"], f["password"]) {
			t.Errorf("the database refuses what is in the files: %s", f["user"])
		}
	})
	if len(users) < 2 {
		t.Errorf("%d users: a batch token of 5 s takes its leases with it", len(users))
	}
	if err := p.Release(t.Context(), r.Volume); err != nil {
		t.Errorf("a batch token cannot be revoked, and that is no failure: %v", err)
	}
	eventually(t, 15*time.Second, "the roles ended with their tokens", func() bool { return pg.Users(t) == 0 })
}

// TestLostLease revokes a lease, and then a token, behind the provider's back.
func TestLostLease(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	pg := newPostgres(t, w)
	w.putShare(t, "v")
	pg.Role(t, w.Server, "app", "1h", "24h")
	c := &clock{}
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
	pod := w.pod("app")
	r := w.request(t, pod, nil, dbObjects)
	tokens, err := identity.ParseTokens(w.issuer.CSITokensFor(10*time.Hour, pod, "vault"))
	if err != nil {
		t.Fatal(err)
	}
	r.Tokens = tokens
	before := mustFetch(t, p, r)
	for _, prefix := range []string{"database/creds", "auth/kubernetes/login"} {
		if err := w.Write(t.Context(), "sys/leases/revoke-prefix/"+prefix, nil); err != nil {
			t.Fatal(err)
		}
		c.advance(45 * time.Minute)
		after := mustFetch(t, p, r)
		if f := files(after); f["user"] == files(before)["user"] || !pg.LogsIn(t, f["user"], f["password"]) {
			t.Errorf("after %s was revoked the files hold %s", prefix, f["user"])
		}
		before = after
	}
}

// TestPartialFailureMakesNoSecondCredential has one object fail for a while.
func TestPartialFailureMakesNoSecondCredential(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	pg := newPostgres(t, w)
	pg.Role(t, w.Server, "app", "1h", "24h")
	p := newProvider(t, nil)
	r := w.request(t, w.pod("app"), nil, "- {objectName: user, secretPath: database/creds/app, secretKey: username}\n- {objectName: k, secretPath: kv1/late, secretKey: k}")
	for range 3 {
		if _, err := p.Fetch(t.Context(), r); fault.Of(err) != fault.NotFound {
			t.Fatalf("got %v", err)
		}
	}
	w.kv1(t, "late", map[string]any{"k": "v"})
	mustFetch(t, p, r)
	if n := pg.Users(t); n != 1 {
		t.Errorf("%d credentials were made, want 1", n)
	}
}

// TestUnexpectedLeasesOfTwo has two volumes of one account read two paths that
// turn out to lease, at once and with the account's token. The end of one pod
// does not end the other's credential.
func TestUnexpectedLeasesOfTwo(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	parent, revoked, made, logins := map[string]string{}, map[string]bool{}, 0, 0
	arrived, both := make(chan struct{}, 2), make(chan struct{})
	b := newBroken(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		by := r.Header.Get("X-Vault-Token")
		switch {
		case strings.HasSuffix(r.URL.Path, "revoke-self"):
			revoked[by] = true
			w.WriteHeader(http.StatusNoContent)
			return
		case strings.HasSuffix(r.URL.Path, "/warm"):
			answering(200, `{"data":{"k":"v"}}`)(w, r)
			return
		}
		select {
		case arrived <- struct{}{}:
			if len(arrived) == cap(arrived) {
				close(both)
			}
		default:
		}
		mu.Unlock()
		<-both
		mu.Lock()
		made++
		user := fmt.Sprint("user-", made)
		parent[user] = by
		fmt.Fprintf(w, `{"lease_id":"x/%d","lease_duration":3600,"renewable":true,"data":{"k":%q}}`, made, user)
	})
	b.login = func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		logins++
		fmt.Fprintf(w, `{"auth":{"client_token":"token-%d","lease_duration":600,"renewable":true,"token_type":"service","metadata":%s}}`, logins, kubernetesMetadata)
	}
	p := newProvider(t, nil)
	of := func(volume, path string) provider.Request {
		return brokenRequest(volume, b.URL, map[string]string{"objects": "[{objectName: a, secretPath: " + path + ", secretKey: k}]"})
	}
	mustFetch(t, p, of("v0", "kv1/warm"))
	one, two := of("v1", "aws/sts/one"), of("v2", "aws/sts/two")
	fetchAll(t, p, 2, []provider.Request{one, two})
	users := []string{files(mustFetch(t, p, one))["a"], files(mustFetch(t, p, two))["a"]}
	mu.Lock()
	parents := []string{parent[users[0]], parent[users[1]]}
	mu.Unlock()
	for i, r := range []provider.Request{one, two} {
		if err := p.Release(t.Context(), r.Volume); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		if !revoked[parents[i]] || (i == 0 && revoked[parents[1]]) {
			t.Errorf("when volume %d of 2 is gone, %v are revoked, and their users hang on %v", i+1, revoked, parents)
		}
		mu.Unlock()
	}
}
