package vault_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const dbObjects = `
- {objectName: user, secretPath: database/creds/app, secretKey: username}
- {objectName: password, secretPath: database/creds/app, secretKey: password}
- {objectName: static, secretPath: kv1/share, secretKey: k}
`

func TestSharedCredentials(t *testing.T) {
	t.Parallel()
	w, pg := databaseWorld(t)
	w.putShare(t, "v")
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
		testkit.Must(t, p.Release(t.Context(), r.Volume))
	}
	f := files(mustFetch(t, p, requests[0]))
	if !pg.LogsIn(t, f["user"], f["password"]) {
		t.Error("a credential that is still shared was ended")
	}
	testkit.Must(t, p.Release(t.Context(), requests[0].Volume))
	testkit.Eventually(t, "the role is gone", func() bool { return pg.Users(t) == 0 })
}

// TestUnexpectedLease leases under a path that does not look like it, for
// several pods at once: no lease is lost, and each pod gets its own.
func TestUnexpectedLease(t *testing.T) {
	t.Parallel()
	const pods = 6
	w := ownWorld(t)
	p := newProvider(t, nil)
	testkit.Must(t, w.Write(t.Context(), "pki/roles/leasing", map[string]any{"allow_any_name": true, "ttl": "1h", "generate_lease": true, "key_type": "ec", "key_bits": 256}))
	objects := "- {objectName: cert, secretPath: pki/issue/leasing, secretKey: certificate, method: PUT, secretArgs: {common_name: a.example}}"
	var requests []provider.Request
	for range pods {
		requests = append(requests, w.request(t, w.pod("app"), nil, objects))
	}
	fetchAll(t, p, pods, requests)
	counts := w.counted(t, func() { fetchAll(t, p, pods, requests) })
	testkit.Equal(t, "certificates made again for nothing", counts["pki/issue/leasing"], 0)
	certs := map[string]bool{}
	for _, r := range requests {
		certs[files(mustFetch(t, p, r))["cert"]] = true
	}
	testkit.Equal(t, "certificates for pods", len(certs), pods)
	for _, r := range requests {
		testkit.Must(t, p.Release(t.Context(), r.Volume))
	}
	testkit.Eventually(t, "no lease is left when all volumes are gone", func() bool {
		return len(w.leases(t, "sys/leases/lookup/pki/issue/leasing")) == 0
	})
}

// leases lists what Vault knows under a prefix.
func (w *world) leases(t *testing.T, path string) []any {
	t.Helper()
	s := testkit.Value(w.Client().Logical().ListWithContext(t.Context(), path))(t)
	if s == nil {
		return nil
	}
	keys, _ := s.Data["keys"].([]any)
	return keys
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
		testkit.Must(t, p.Release(t.Context(), r.Volume))
		mu.Lock()
		if !revoked[parents[i]] || (i == 0 && revoked[parents[1]]) {
			t.Errorf("when volume %d of 2 is gone, %v are revoked, and their users hang on %v", i+1, revoked, parents)
		}
		mu.Unlock()
	}
}

// TestRenewalThatAnswersNothing has stores and proxies that answer a renewal with success and renew
// nothing. The driver replaces the lease, or logs in again and replaces what the Vault token owns,
// while the old one still works.
func TestRenewalThatAnswersNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		path, answer  string // of the renewal
		token, lease  int    // how long each lives, in seconds
		logins, trail int    // logins more, and accesses in the trail
	}{
		"lease, 204":             {"sys/leases/renew", "", 36000, 3600, 0, 1},
		"lease, empty id":        {"sys/leases/renew", `{"lease_id":"","lease_duration":0,"data":null}`, 36000, 3600, 0, 1},
		"lease, null data":       {"sys/leases/renew", `{"data":null,"auth":null}`, 36000, 3600, 0, 1},
		"lease, of nothing":      {"sys/leases/renew", `{"lease_id":"x/1","lease_duration":0}`, 36000, 3600, 0, 1},
		"Vault token, 204":       {"renew-self", "", 3600, 36000, 1, 2},
		"Vault token, null auth": {"renew-self", `{"data":null,"auth":null}`, 3600, 36000, 1, 2},
	} {
		t.Run(name, func(t *testing.T) {
			var made atomic.Int32
			b := newBroken(t, func(w http.ResponseWriter, r *http.Request) {
				switch {
				case !strings.HasSuffix(r.URL.Path, tc.path):
					fmt.Fprintf(w, `{"lease_id":"x/%d","lease_duration":%d,"renewable":true,"data":{"k":"v%d"}}`, made.Add(1), tc.lease, made.Load())
				case tc.answer == "":
					w.WriteHeader(http.StatusNoContent)
				default:
					fmt.Fprint(w, tc.answer)
				}
			})
			b.login = goodLogin(tc.token)
			var now clock
			p := newProvider(t, func(c *vault.Config) { c.Now = now.now })
			r := brokenRequest("v", b.URL, map[string]string{"objects": "[{objectName: a, secretPath: database/creds/a, secretKey: k}]"})
			wantFile(t, mustFetch(t, p, r), "a", "v1")
			logins := b.count("/login")
			now.advance(45 * time.Minute)
			trail := &provider.Trail{}
			payload := testkit.Value(p.Fetch(provider.WithTrail(t.Context(), trail), r))(t)
			wantFile(t, payload, "a", "v2")
			if b.count(tc.path) != 1 || b.count("/login") != logins+tc.logins {
				t.Errorf("%d renewals and %d logins more, want 1 and %d", b.count(tc.path), b.count("/login")-logins, tc.logins)
			}
			if a := trail.Accesses(); len(a) != tc.trail || a[0].Operation != provider.AccessRenew || tc.logins == 0 && a[0].Lease != "x/1" || a[0].Err == nil || a[0].Asked == "" {
				t.Errorf("the trail has %+v", a)
			}
		})
	}
}

// TestRevokedLease has leases that an operator revoked before their time.
func TestRevokedLease(t *testing.T) {
	for _, tc := range []struct {
		name   string
		status int
		body   string
		after  time.Duration
		fresh  bool
		want   string
	}{
		{"a refresh by hand", 400, `{"errors":["invalid lease"]}`, 10 * time.Second, true, "v2"},
		{"an hour", 400, `{"errors":["invalid lease"]}`, 61 * time.Minute, false, "v2"},
		{"before an hour", 400, `{"errors":["invalid lease"]}`, 50 * time.Minute, false, "v1"},
		{"its token was revoked", 403, `{"errors":["permission denied","invalid token"]}`, 10 * time.Second, true, "v2"},
		{"no policy allows the question", 403, `{"errors":["permission denied"]}`, 10 * time.Second, true, "v1"},
		{"the lease is known", 200, `{"data":{"id":"x/1","ttl":30000}}`, 10 * time.Second, true, "v1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var made atomic.Int32
			b := newBroken(t, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "sys/leases/lookup") {
					answering(tc.status, tc.body)(w, r)
					return
				}
				n := made.Add(1)
				fmt.Fprintf(w, `{"lease_id":"x/%d","lease_duration":36000,"renewable":true,"data":{"k":"v%d"}}`, n, n)
			})
			b.login = goodLogin(36000)
			var now clock
			p := newProvider(t, func(c *vault.Config) { c.Now = now.now })
			r := brokenRequest("v", b.URL, map[string]string{"objects": "[{objectName: a, secretPath: database/creds/a, secretKey: k}]"})
			wantFile(t, mustFetch(t, p, r), "a", "v1")
			now.advance(tc.after)
			r.Fresh = tc.fresh
			wantFile(t, mustFetch(t, p, r), "a", tc.want)
		})
	}
}

// TestDueTokenIsUsedWhileVaultCannotRenewIt: the driver reads on with a Vault token that is still
// valid while Vault can neither renew it nor issue another.
func TestDueTokenIsUsedWhileVaultCannotRenewIt(t *testing.T) {
	b := newBroken(t, answering(200, `{"data":{"k":"v1"}}`))
	b.login = goodLogin(3600)
	var now clock
	p := newProvider(t, func(c *vault.Config) { c.Now, c.MaxRetries = now.now, -1 })
	r := brokenRequest("v", b.URL, nil)
	mustFetch(t, p, r)
	broken := answering(500, `{"errors":["internal error"]}`)
	b.setRead(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "renew-self") {
			broken(w, r)
			return
		}
		answering(200, `{"data":{"k":"v2"}}`)(w, r)
	})
	b.mu.Lock()
	b.login = broken
	b.mu.Unlock()
	now.advance(45 * time.Minute)
	wantFile(t, mustFetch(t, p, r), "a", "v2")
	testkit.Equal(t, "renewals", b.count("renew-self"), 1)
}

// TestLostAnswers loses the answer to a request that created a lease: Vault revokes the lease
// with the volume, whether the volume gets another one or not, because it ends with the
// Vault token of the request.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	w, _ := databaseWorld(t)
	testkit.Must(t, w.Write(t.Context(), "pki/roles/leasing", map[string]any{"allow_any_name": true, "ttl": "1h", "generate_lease": true, "key_type": "ec", "key_bits": 256}))
	for path, objects := range map[string]string{
		"database/creds/app": "- {objectName: user, secretPath: database/creds/app, secretKey: username}",
		// It is not known to lease, so the token is that of the pod's reads.
		"pki/issue/leasing": "- {objectName: cert, secretPath: pki/issue/leasing, secretKey: certificate, method: PUT, secretArgs: {common_name: a.example}}",
	} {
		for _, again := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, another one: %t", path, again), func(t *testing.T) {
				g := newGate(t, w.Address)
				g.set(func(to http.ResponseWriter, r *http.Request) {
					if strings.HasSuffix(r.URL.Path, path) {
						g.proxy.ServeHTTP(httptest.NewRecorder(), r)
						panic(http.ErrAbortHandler)
					}
					g.proxy.ServeHTTP(to, r)
				})
				p := newProvider(t, nil)
				r := w.request(t, w.pod("app"), map[string]string{"vaultAddress": g.URL}, objects)
				if _, err := p.Fetch(t.Context(), r); fault.Of(err) != fault.Unavailable {
					t.Fatalf("the answer is lost, but %v", err)
				}
				g.set(nil)
				want := 1
				if again {
					mustFetch(t, p, r)
					want = 2
				}
				left := func() int { return len(w.leases(t, "sys/leases/lookup/"+path)) }
				testkit.Equal(t, "leases", left(), want)
				testkit.Must(t, p.Release(t.Context(), r.Volume))
				testkit.Eventually(t, "no lease is left", func() bool { return left() == 0 })
			})
		}
	}
}
