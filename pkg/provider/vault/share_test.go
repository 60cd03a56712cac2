package vault_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/pkg/secret"
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
			p := newProvider(t, nil)
			var requests []provider.Request
			for range tc.pods {
				requests = append(requests, w.request(t, w.pod("app"), tc.params, two))
			}
			counts := w.counted(t, func() { fetchAll(t, p, 50, requests) })
			if got := under(counts, "/login"); got != tc.logins {
				t.Errorf("%d logins, want %d", got, tc.logins)
			}
			for _, path := range []string{"kv1/share", "kv2/data/share"} {
				if counts[path] != tc.perPath {
					t.Errorf("%d reads of %s, want %d", counts[path], path, tc.perPath)
				}
			}
			counts = w.counted(t, func() {
				for _, r := range requests {
					if err := p.Release(t.Context(), r.Volume); err != nil {
						t.Error(err)
					}
				}
			})
			if got := counts["auth/token/revoke-self"]; got != tc.logins {
				t.Errorf("%d Vault tokens revoked, want %d", got, tc.logins)
			}
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
		if fault.Of(err) != fault.Denied || payload != nil {
			t.Errorf("a service account that is gone got %v, %v", payload, err)
		}
	}
}

// TestUnknownUIDIsNotShared has tokens that say nothing of their bearer.
func TestUnknownUIDIsNotShared(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	p := newProvider(t, nil)
	var requests []provider.Request
	for range 3 {
		r := w.request(t, w.pod("app"), nil, two)
		tok := r.Tokens["vault"]
		tok.Claims = identity.Claims{}
		r.Tokens = identity.Tokens{"vault": tok}
		requests = append(requests, r)
	}
	if got := under(w.counted(t, func() { fetchAll(t, p, 3, requests) }), "/login"); got != 3 {
		t.Errorf("%d logins, want 3", got)
	}
}

// TestForgedClaims has a token whose claims, as we read them, name another
// service account than the store finds in it.
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

// TestSteadyState lets intervals pass: one request for each distinct
// secret and identity in each, however many volumes there are.
func TestSteadyState(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	c := &clock{}
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now, cfg.DefaultInterval = c.now, time.Minute })
	type due struct {
		r  provider.Request
		at time.Time
	}
	var volumes []due
	for range 20 {
		r := w.request(t, w.pod("app"), nil, two)
		volumes = append(volumes, due{r, mustFetch(t, p, r).RefreshAt})
		c.advance(time.Second)
	}
	const seconds = 8 * 60
	counts := w.counted(t, func() {
		for range seconds {
			c.advance(time.Second)
			for i := range volumes {
				if !c.now().Before(volumes[i].at) {
					volumes[i].at = mustFetch(t, p, volumes[i].r).RefreshAt
				}
			}
		}
	})
	for _, path := range []string{"kv1/share", "kv2/data/share"} {
		if counts[path] < 7 || counts[path] > 9 {
			t.Errorf("%d reads of %s in 8 intervals", counts[path], path)
		}
	}
	if n := counts.Under("auth/"); n != 0 {
		t.Errorf("%d logins and renewals, want none: %v", n, counts)
	}
	c.advance(33 * time.Minute) // to two thirds of the Vault token's hour
	counts = w.counted(t, func() {
		for i := range volumes {
			mustFetch(t, p, volumes[i].r)
		}
	})
	if counts["auth/token/renew-self"] != 1 || under(counts, "/login") != 0 {
		t.Errorf("requests %v, want one renewal", counts)
	}
}

// TestFreshIsReadOnce has all volumes of an edited class ask anew at once.
func TestFreshIsReadOnce(t *testing.T) {
	w := shared
	w.putShare(t, "old")
	p := newProvider(t, nil)
	var requests []provider.Request
	for range 30 {
		r := w.request(t, w.pod("app"), nil, two)
		mustFetch(t, p, r)
		r.Fresh = true
		requests = append(requests, r)
	}
	w.putShare(t, "new")
	counts := w.counted(t, func() { fetchAll(t, p, 30, requests) })
	if counts["kv1/share"] > 10 {
		t.Errorf("%d reads for 30 volumes at once", counts["kv1/share"])
	}
	for _, r := range requests {
		r.Fresh = false
		wantFile(t, mustFetch(t, p, r), "a", "new")
	}
}

// TestMetadataCheck looks at the version only, where the policy allows that.
func TestMetadataCheck(t *testing.T) {
	w := shared
	for _, tc := range []struct {
		path            string
		meta, data      int // of three polls without a change
		metaCh, dataCh  int // of one with a change
		metaDel, reason string
	}{
		{path: "watched/a", meta: 3, data: 0, metaCh: 1, dataCh: 1},
		{path: "unwatched", meta: 1, data: 3, metaCh: 0, dataCh: 1},
	} {
		c := &clock{}
		p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
		w.kv2(t, tc.path, map[string]any{"k": "one"})
		r := w.request(t, w.pod("app"), nil, "- {objectName: f, secretPath: kv2/data/"+tc.path+", secretKey: k}")
		mustFetch(t, p, r)
		poll := func(times int) map[string]int {
			return w.counted(t, func() {
				for range times {
					c.advance(2 * time.Minute)
					mustFetch(t, p, r)
				}
			})
		}
		if n := poll(3); n["kv2/metadata/"+tc.path] != tc.meta || n["kv2/data/"+tc.path] != tc.data {
			t.Errorf("%s unchanged: %v", tc.path, n)
		}
		w.kv2(t, tc.path, map[string]any{"k": "two"})
		if n := poll(1); n["kv2/metadata/"+tc.path] != tc.metaCh || n["kv2/data/"+tc.path] != tc.dataCh {
			t.Errorf("%s changed: %v", tc.path, n)
		}
		wantFile(t, mustFetch(t, p, r), "f", "two")

		// Deleted for good and made anew: version 2 again, but another one.
		if _, err := w.Client().Logical().DeleteWithContext(t.Context(), "kv2/metadata/"+tc.path); err != nil {
			t.Fatal(err)
		}
		w.kv2(t, tc.path, map[string]any{"k": "x"})
		w.kv2(t, tc.path, map[string]any{"k": "another two"})
		c.advance(2 * time.Minute)
		wantFile(t, mustFetch(t, p, r), "f", "another two")

		if err := w.Write(t.Context(), "kv2/delete/"+tc.path, map[string]any{"versions": []int{2}}); err != nil {
			t.Fatal(err)
		}
		c.advance(2 * time.Minute)
		if _, err := p.Fetch(t.Context(), r); fault.Of(err) != fault.NotFound || !strings.Contains(err.Error(), "was deleted") {
			t.Errorf("a deleted secret: %v", err)
		}
	}
}

// TestRevokedToken takes the Vault token away behind the provider's back.
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
	if err := w.Write(t.Context(), "sys/leases/revoke-prefix/auth/kubernetes/login", nil); err != nil {
		t.Fatal(err)
	}
	c.advance(3 * time.Minute)
	counts := w.counted(t, func() { fetchAll(t, p, 10, requests) })
	if n := under(counts, "/login"); n != 1 {
		t.Errorf("%d logins to make up for a revoked token, want 1", n)
	}
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
	if _, err := p.Fetch(t.Context(), r); fault.Of(err) != fault.NoToken {
		t.Errorf("an expired service account token: %v", err)
	}
}

func TestReleaseIsBounded(t *testing.T) {
	b := newBroken(t, answering(200, `{"data":{"k":"v"}}`))
	p := newProvider(t, func(c *vault.Config) { c.RevokeTimeout = 100 * time.Millisecond })
	r := brokenRequest("v", b.URL, nil)
	mustFetch(t, p, r)
	b.setRead(hang)
	if err := p.Release(t.Context(), "v"); fault.Of(err) != fault.Timeout {
		t.Errorf("a store that hangs: %v", err)
	}
	b.setRead(answering(204, ""))
	if err := p.Release(t.Context(), "v"); err != nil {
		t.Errorf("again: %v", err)
	}
	n := b.count("revoke-self")
	if n < 2 {
		t.Errorf("%d revocations, want another try", n)
	}
	if err := p.Release(t.Context(), "v"); err != nil || b.count("revoke-self") != n {
		t.Errorf("a third release: %v", err)
	}
}

func TestRevocationSwitchedOff(t *testing.T) {
	b := newBroken(t, answering(200, `{"data":{"k":"v"}}`))
	p := newProvider(t, func(c *vault.Config) { c.DisableRevocation = true })
	mustFetch(t, p, brokenRequest("v", b.URL, nil))
	if err := p.Release(t.Context(), "v"); err != nil || b.count("revoke") != 0 {
		t.Errorf("%v, requests %q", err, b.seen)
	}
}

// TestReleaseEndsARunningFetch does not wait for the store.
func TestReleaseEndsARunningFetch(t *testing.T) {
	started := make(chan struct{}, 10)
	b := newBroken(t, func(w http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		hang(w, r)
	})
	p := newProvider(t, func(c *vault.Config) { c.RequestTimeout, c.DisableRevocation = time.Minute, true })
	failed := make(chan error, 1)
	go func() {
		_, err := p.Fetch(t.Context(), brokenRequest("v", b.URL, nil))
		failed <- err
	}()
	<-started
	if err := p.Release(t.Context(), "v"); err != nil {
		t.Error(err)
	}
	if err := <-failed; fault.Of(err) != fault.Canceled || !strings.Contains(err.Error(), "the volume is going away") {
		t.Errorf("the fetch ended with %v", err)
	}
}
