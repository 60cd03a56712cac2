package vault_test

import (
	"context"
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
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// fetchAll fetches all requests, so many at once.
func fetchAll(t *testing.T, p provider.Provider, at int, requests []provider.Request) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, at)
	for _, r := range requests {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if _, err := p.Fetch(t.Context(), r); err != nil {
				t.Errorf("%s: %v", r.Volume, err)
			}
		})
	}
	wg.Wait()
}

const two = "- {objectName: a, secretPath: kv1/share, secretKey: k}\n- {objectName: b, secretPath: kv2/data/share, secretKey: k}\n"

func (w *world) putShare(t *testing.T, value string) {
	w.kv1(t, "share", map[string]any{"k": value})
	w.kv2(t, "share", map[string]any{"k": value})
}

// shares counts what volumes needed.
type shares struct {
	mu  sync.Mutex
	all map[endpoint.Operation]map[bool]int
}

func (s *shares) count(o endpoint.Operation, shared bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[endpoint.Operation]map[bool]int{endpoint.OpLogin: {}, endpoint.OpRead: {}}
	}
	s.all[o][shared]++
}

func (s *shares) want(t *testing.T, o endpoint.Operation, own, shared int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if got := s.all[o]; got[false] != own || got[true] != shared {
		t.Errorf("%s: %d of the volumes' own and %d shared, want %d and %d", o, got[false], got[true], own, shared)
	}
}

// TestSharedLogin counts in Vault's audit log what many pods cost.
func TestSharedLogin(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	for _, tc := range []struct {
		name                  string
		params                map[string]string
		pods, logins, perPath int
	}{
		{"kubernetes method", nil, 100, 1, 1},
		{"kubernetes method, told not to", map[string]string{"sessionSharing": "pod"}, 8, 8, 8},
		{"jwt role with the pod's uid", map[string]string{"vaultAuthMountPath": "jwt", "roleName": "pod"}, 8, 8, 8},
		{"jwt role with the pod's uid, told to", map[string]string{"vaultAuthMountPath": "jwt", "roleName": "pod", "sessionSharing": "serviceAccount"}, 8, 8, 8},
		{"jwt role of which nothing is known", map[string]string{"vaultAuthMountPath": "jwt", "roleName": "plain"}, 8, 8, 8},
		{"jwt role, told to", map[string]string{"vaultAuthMountPath": "jwt", "roleName": "plain", "sessionSharing": "serviceAccount"}, 8, 1, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var told shares
			p := newProvider(t, func(c *vault.Config) { c.OnShared = told.count })
			var requests []provider.Request
			for range tc.pods {
				requests = append(requests, w.request(t, w.pod("app"), tc.params, two))
			}
			counts := w.counted(t, func() { fetchAll(t, p, 50, requests) })
			testkit.Equal(t, "logins", under(counts, "/login"), tc.logins)
			for _, path := range []string{"kv1/share", "kv2/data/share"} {
				testkit.Equal(t, "reads of "+path, counts[path], tc.perPath)
			}
			told.want(t, endpoint.OpLogin, tc.logins, tc.pods-tc.logins)
			told.want(t, endpoint.OpRead, 2*tc.perPath, 2*(tc.pods-tc.perPath))
			counts = w.counted(t, func() {
				for _, r := range requests {
					testkit.Check(t, p.Release(t.Context(), r.Volume))
				}
			})
			testkit.Equal(t, "Vault tokens revoked", counts["auth/token/revoke-self"], tc.logins)
		})
	}
}

func TestOtherAccountsDoNotShare(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	p := newProvider(t, nil)
	counts := w.counted(t, func() {
		fetchAll(t, p, 4, []provider.Request{
			w.request(t, w.pod("app"), nil, two), w.request(t, w.pod("web-1"), nil, two),
			w.request(t, w.pod("web-2"), nil, two), w.request(t, w.pod("app"), map[string]string{"vaultNamespace": "x"}, two),
		})
	})
	if under(counts, "/login") != 4 || counts["kv1/share"] != 4 {
		t.Errorf("requests %v, want 4 logins and 4 reads", counts)
	}
}

// TestRecreatedServiceAccount tries a service account of the same name with
// another UID, which the store refuses, while the first one's login lives.
func TestRecreatedServiceAccount(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	p := newProvider(t, nil)
	mustFetch(t, p, w.request(t, w.pod("app"), nil, two))

	again := w.pod("app")
	again.ServiceAccountUID = "another-uid"
	counts := w.counted(t, func() { mustFetch(t, p, w.request(t, again, nil, two)) })
	if under(counts, "/login") != 1 || counts["kv1/share"] != 1 {
		t.Errorf("requests %v: another service account of the name must log in and read by itself", counts)
	}

	refused := w.pod("app")
	refused.ServiceAccountUID = "refused-uid"
	w.issuer.DeleteServiceAccount(refused)
	for range 2 {
		payload, err := p.Fetch(t.Context(), w.request(t, refused, nil, two))
		if fault.Of(err) != fault.Unverified || payload != nil {
			t.Errorf("a service account that is gone got %v, %v", payload, err)
		}
	}
}

// TestForgedClaims has a token whose claims name another service account than the store finds in it.
func TestForgedClaims(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	p := newProvider(t, nil)
	victim := w.request(t, w.pod("app"), nil, two)
	forger := w.request(t, w.pod("web-1"), nil, two)
	tok := forger.Tokens["vault"]
	tok.Claims = victim.Tokens["vault"].Claims
	forger.Tokens = identity.Tokens{"vault": tok}
	mustFetch(t, p, forger)
	counts := w.counted(t, func() { mustFetch(t, p, victim) })
	if under(counts, "/login") != 1 {
		t.Errorf("requests %v: the victim's volume must not use the forger's login", counts)
	}
}

// TestRevokedToken revokes the Vault token that ten volumes share: one login replaces it.
func TestRevokedToken(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	c := &clock{}
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
	var requests []provider.Request
	for range 10 {
		requests = append(requests, w.request(t, w.pod("app"), nil, two))
	}
	fetchAll(t, p, 10, requests)
	testkit.Must(t, w.Write(t.Context(), "sys/leases/revoke-prefix/auth/kubernetes/login", nil))
	c.advance(3 * time.Minute)
	counts := w.counted(t, func() { fetchAll(t, p, 10, requests) })
	testkit.Equal(t, "logins to make up for a revoked token", under(counts, "/login"), 1)
}

// TestNewestServiceAccountToken logs in with what kubelet passed last.
func TestNewestServiceAccountToken(t *testing.T) {
	b := newBroken(t, answering(200, `{"data":{"k":"v"}}`))
	b.login = goodLogin(60)
	c := &clock{}
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
	r := brokenRequest("v", b.URL, nil)
	mustFetch(t, p, r)
	tok := r.Tokens["vault"]
	tok.JWT = secret.NewString(tok.JWT.Reveal() + "-newest")
	r.Tokens = identity.Tokens{"vault": tok}
	c.advance(2 * time.Minute)
	mustFetch(t, p, r)
	if b.count("/login") != 2 || !strings.Contains(b.bodys[2], "-newest") {
		t.Errorf("requests %q, bodies %q", b.seen, b.bodys)
	}

	// With an expired one a live session goes on, and a login says why not.
	tok.Expires = c.now().Add(-time.Second)
	r.Tokens = identity.Tokens{"vault": tok}
	r.Fresh = true
	mustFetch(t, p, r)
	c.advance(2 * time.Minute)
	testkit.Failure(p.Fetch(t.Context(), r))(t, fault.NoToken)
}

// TestLeaderGivesUp cancels the fetch that logs in for several: the others log in themselves.
func TestLeaderGivesUp(t *testing.T) {
	const waiters = 10
	first := make(chan struct{})
	var once sync.Once
	b := newBroken(t, answering(200, `{"data":{"k":"v"}}`))
	good := goodLogin(600)
	b.login = func(w http.ResponseWriter, r *http.Request) {
		mine := false
		once.Do(func() { mine = true; close(first) })
		if mine {
			hang(w, r)
			return
		}
		good(w, r)
	}
	p := newProvider(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		testkit.Failure(p.Fetch(ctx, brokenRequest("leader", b.URL, nil)))(t, fault.Canceled)
	})
	<-first
	for i := range waiters {
		wg.Go(func() {
			if _, err := p.Fetch(t.Context(), brokenRequest(fmt.Sprint("w", i), b.URL, nil)); err != nil {
				t.Errorf("a waiter: %v", err)
			}
		})
	}
	cancel()
	wg.Wait()
	testkit.Equal(t, "logins: the leader's, and one more", b.count("/login"), 2)
}

// TestClassEdit changes a live volume's role: Release revokes the tokens of both roles.
func TestClassEdit(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	p := newProvider(t, nil)
	r := w.request(t, w.pod("app"), nil, two)
	mustFetch(t, p, r)
	edited := w.request(t, w.pod("app"), map[string]string{"vaultAuthMountPath": "jwt", "roleName": "plain"}, two)
	edited.Volume, edited.Pod, edited.Tokens, edited.Fresh = r.Volume, r.Pod, r.Tokens, true
	counts := w.counted(t, func() { mustFetch(t, p, edited) })
	if counts["auth/jwt/login"] != 1 || counts["kv1/share"] != 1 {
		t.Errorf("requests %v, want a login and reads of the new identity", counts)
	}
	counts = w.counted(t, func() {
		testkit.Check(t, p.Release(t.Context(), r.Volume))
	})
	if counts["auth/token/revoke-self"] != 2 {
		t.Errorf("requests %v, want both tokens revoked", counts)
	}
}

// TestClassEditAndBack edits a live volume's class to a role that the store refuses, and back: the
// driver renews the credential in the files all the time.
func TestClassEditAndBack(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %t", restart), func(t *testing.T) {
			t.Parallel()
			w, pg := databaseWorld(t)
			w.putShare(t, "v")
			c := &clock{}
			adjust := func(cfg *vault.Config) { cfg.Now = c.now }
			p := newProvider(t, adjust)
			r := w.longTokens(t, w.request(t, w.pod("app"), nil, dbObjects))
			before := mustFetch(t, p, r)
			edited := w.longTokens(t, w.request(t, w.pod("app"), map[string]string{"roleName": "typo"}, dbObjects))
			edited.Volume, edited.Pod, edited.Tokens, edited.Fresh = r.Volume, r.Pod, r.Tokens, true
			refused := func() {
				t.Helper()
				if _, err := p.Fetch(t.Context(), edited); fault.Of(err) != fault.Rejected {
					t.Fatal(err)
				}
			}
			refused()
			c.advance(42 * time.Minute)
			counts := w.counted(t, refused)
			if counts["sys/leases/renew"] != 1 {
				t.Errorf("requests %v, want what is in the files to be renewed", counts)
			}
			if restart {
				next := newProvider(t, adjust)
				testkit.Must(t, next.Import(r.Volume, p.Export(r.Volume)))
				p = next
				refused()
			}
			counts = w.counted(t, func() {
				after := mustFetch(t, p, r)
				if files(after)["user"] != files(before)["user"] || !after.Leases[0].Expires.After(c.now().Add(50*time.Minute)) {
					t.Errorf("files %v, leases %v; before %v", files(after), after.Leases, files(before))
				}
			})
			if under(counts, "/login") != 0 || counts["database/creds/app"] != 0 {
				t.Errorf("requests %v, want no login and no credential", counts)
			}
			edited.Class.Parameters["roleName"] = "nobody"
			refused()
			testkit.Must(t, p.Release(t.Context(), r.Volume))
			testkit.Eventually(t, "the user is gone with its pod", func() bool { return pg.Users(t) == 0 })
		})
	}
}

// onePodRole makes a jwt role that Vault gives to one pod only. Its metadata
// holds nothing of the pod.
func (w *world) onePodRole(t *testing.T, pod string) map[string]string {
	t.Helper()
	err := w.Role(t.Context(), "jwt", "onepod", map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault", "policies": "app", "token_ttl": "1h",
		"bound_claims": map[string]any{"/kubernetes.io/pod/name": pod},
	})
	testkit.Must(t, err)
	return map[string]string{"vaultAuthMountPath": "jwt", "roleName": "onepod"}
}

// refusedBeside fetches for the first pod, and then for the second, which the store refuses: it must
// not use the first one's login.
func refusedBeside(t *testing.T, p *vault.Provider, first, second provider.Request) {
	t.Helper()
	mustFetch(t, p, first)
	if payload, err := p.Fetch(t.Context(), second); err == nil || fault.Of(err).Outage() {
		t.Errorf("a pod that the store refuses got %v, %v", payload, err)
	}
	mustFetch(t, p, first)
}

// TestDeniedPodGetsNoSharedCredential has a class of nothing but leases, which
// the service account's pods are to share, and a role for one of its pods.
func TestDeniedPodGetsNoSharedCredential(t *testing.T) {
	t.Parallel()
	w, pg := databaseWorld(t)
	pod := w.pod("app")
	params := w.onePodRole(t, pod.Pod)
	const user = "- {objectName: user, secretPath: database/creds/app, secretKey: username}\n"
	p := newProvider(t, nil)
	first, second := w.request(t, pod, params, user), w.request(t, w.pod("app"), params, user)
	first.Class.CredentialScope, second.Class.CredentialScope = class.ScopeServiceAccount, class.ScopeServiceAccount
	counts := w.counted(t, func() { refusedBeside(t, p, first, second) })
	if counts["auth/jwt/login"] != 2 || counts["database/creds/app"] != 1 {
		t.Errorf("requests %v, want a login of each pod and one credential", counts)
	}
	testkit.Must(t, p.Release(t.Context(), first.Volume))
	testkit.Eventually(t, "the user is gone with its pod", func() bool { return pg.Users(t) == 0 })
}
