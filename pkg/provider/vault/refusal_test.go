package vault_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// longTokens gives the request a service account token for a day.
func (w *world) longTokens(t testing.TB, r provider.Request) provider.Request {
	t.Helper()
	r.Tokens["vault"] = longToken(r)
	return r
}

func longToken(r provider.Request) identity.Token {
	tok := r.Tokens["vault"]
	tok.Expires = time.Now().Add(24 * time.Hour)
	return tok
}

// TestRefusedIsForgotten has the store refuse what it gave before: no pod gets it from the cache, by
// Recall or after a restart.
func TestRefusedIsForgotten(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]func(t *testing.T, w *world) error{
		"the read": func(t *testing.T, w *world) error {
			return w.Policy(t.Context(), "app", strings.ReplaceAll(policy, `path "kv1/*"              { capabilities = ["read"] }`, ""))
		},
		"the login": func(t *testing.T, w *world) error {
			if err := w.Write(t.Context(), "sys/leases/revoke-prefix/auth/kubernetes/login", nil); err != nil {
				return err
			}
			return w.Write(t.Context(), "auth/kubernetes/role/app", map[string]any{"bound_service_account_names": "other"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := ownWorld(t)
			w.putShare(t, "v")
			c := &clock{}
			adjust := func(cfg *vault.Config) { cfg.Now = c.now }
			p := newProvider(t, adjust)
			live, other, asked := w.request(t, w.pod("app"), nil, two), w.request(t, w.pod("app"), nil, two), w.request(t, w.pod("app"), nil, two)
			mustFetch(t, p, live)
			mustFetch(t, p, other)
			if _, _, ok := p.Recall(asked, c.now().Add(-time.Hour)); !ok {
				t.Fatal("nothing to forget")
			}
			testkit.Must(t, refuse(t, w))
			c.advance(time.Minute / 2)
			live.Fresh = true
			refused := func(p *vault.Provider, r provider.Request) {
				t.Helper()
				testkit.Failure(p.Fetch(t.Context(), r))(t, fault.Denied)
			}
			refused(p, live)
			live.Fresh = false
			refused(p, live)
			refused(p, asked)
			next := newProvider(t, adjust)
			for _, r := range []provider.Request{other, live} {
				testkit.Must(t, next.Import(r.Volume, p.Export(r.Volume)))
			}
			for _, q := range []*vault.Provider{p, next} {
				if payload, _, ok := q.Recall(asked, c.now().Add(-time.Hour)); ok {
					t.Errorf("recalled %v", files(payload))
				}
			}
			refused(next, live)
			refused(next, asked)
		})
	}
}

// TestReasonOfALogin tells a role's refusal from a Vault that cannot ask
// Kubernetes about the token: live volumes are emptied for the first only.
func TestReasonOfALogin(t *testing.T) {
	w := ownWorld(t)
	w.putShare(t, "v")
	fails := func(r provider.Request, want fault.Reason, words string) {
		t.Helper()
		testkit.Failure(newProvider(t, nil).Fetch(t.Context(), r))(t, want, words)
	}
	r := w.request(t, w.pod("app"), nil, two)
	fails(w.request(t, w.pod("stranger"), nil, two), fault.Denied, "service account name not authorized")
	testkit.Must(t, w.Write(t.Context(), "auth/kubernetes/role/app", map[string]any{"audience": "other"}))
	fails(r, fault.Denied, "invalid audience")
	testkit.Must(t, w.Write(t.Context(), "auth/kubernetes/role/app", map[string]any{"audience": "vault"}))
	testkit.Must(t, w.issuer.Close())
	fails(r, fault.Unverified, "can it verify service account tokens of this cluster?")
}

// TestRefusedCredentialIsNotShared: a credential that the store would refuse to issue again is not
// shared with further pods.
func TestRefusedCredentialIsNotShared(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	c := &clock{}
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
	const cert = "- {objectName: crt, secretPath: pki/issue/app, method: POST, secretArgs: {common_name: a.example, ttl: 1h}, secretKey: certificate}\n"
	share := func() provider.Request {
		r := w.longTokens(t, w.request(t, w.pod("app"), nil, cert))
		r.Class.CredentialScope = class.ScopeServiceAccount
		return r
	}
	live, asked := share(), share()
	mustFetch(t, p, live)
	testkit.Must(t, w.Policy(t.Context(), "app", `path "kv1/*" { capabilities = ["read"] }`))
	c.advance(45 * time.Minute)
	live.Current = []provider.Version{{ID: "crt", Version: "x"}}
	if _, err := p.Fetch(t.Context(), live); fault.Of(err) != fault.Denied {
		t.Fatal(err)
	}
	if _, _, ok := p.Recall(asked, c.now().Add(-time.Hour)); ok {
		t.Error("a refused credential was recalled for another pod")
	}
	testkit.Failure(p.Fetch(t.Context(), asked))(t, fault.Denied) // another pod
}

const certificateBesideKV = `
- {objectName: a, secretPath: kv1/share, secretKey: k}
- {objectName: crt, secretPath: pki/issue/app, method: POST, secretArgs: {common_name: a.example, ttl: 1h}, secretKey: certificate}`

// TestOneFailureHoldsNothingUp: the driver replaces a certificate in time although another object of
// the volume fails.
func TestOneFailureHoldsNothingUp(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		onDenied class.OnDenied
		fail     func(t *testing.T, w *world) error
		want     fault.Reason
		whole    bool // the failure is the whole fetch's
	}{
		"denied":                {class.DeniedKeep, denyKV1, fault.Denied, false},
		"denied, to be emptied": {class.DeniedEmpty, denyKV1, fault.Denied, true},
		"gone": {class.DeniedEmpty, func(t *testing.T, w *world) error {
			_, err := w.Client().Logical().DeleteWithContext(t.Context(), "kv1/share")
			return err
		}, fault.NotFound, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := ownWorld(t)
			w.putShare(t, "v")
			c := &clock{}
			p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
			r := w.longTokens(t, w.request(t, w.pod("app"), nil, certificateBesideKV))
			r.Class.OnDenied = tc.onDenied
			before := mustFetch(t, p, r)
			r.Current = before.Versions
			testkit.Must(t, tc.fail(t, w))
			c.advance(45 * time.Minute)
			after, err := p.Fetch(t.Context(), r)
			if tc.whole {
				if fault.Of(err) != tc.want {
					t.Fatalf("%v, %v", after, err)
				}
				return
			}
			if err != nil || fault.Of(after.Partial) != tc.want || !strings.Contains(after.Partial.Error(), `objects[0] "a"`) {
				t.Fatalf("%v, %v", after, err)
			}
			wantFile(t, after, "a", "v")
			if len(after.Files) != 2 || files(after)["crt"] == files(before)["crt"] || !after.RefreshAt.After(c.now()) {
				t.Errorf("files %v, to be looked at %s", files(after), after.RefreshAt)
			}

			// What stood in is for this volume's files only.
			if payload, err := p.Fetch(t.Context(), w.longTokens(t, w.request(t, w.pod("app"), nil, certificateBesideKV))); err == nil {
				t.Errorf("a new pod got %v", files(payload))
			}
			if _, _, ok := p.Recall(w.longTokens(t, w.request(t, w.pod("app"), nil, two)), c.now().Add(-10*time.Hour)); ok && tc.want == fault.Denied {
				t.Error("what the store refused was recalled")
			}
			next := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
			testkit.Must(t, next.Import(r.Volume, p.Export(r.Volume)))
			restarted := mustFetch(t, next, r)
			if fault.Of(restarted.Partial) != tc.want || files(restarted)["crt"] != files(after)["crt"] {
				t.Errorf("after a restart: %v, %v", files(restarted), restarted.Partial)
			}
		})
	}
}

func denyKV1(t *testing.T, w *world) error {
	return w.Policy(t.Context(), "app", strings.ReplaceAll(policy, `path "kv1/*"              { capabilities = ["read"] }`, ""))
}

// TestLeaseStandsIn: while a database is unavailable, the volume keeps its credential until the lease
// ends, and gets the new KV secret.
func TestLeaseStandsIn(t *testing.T) {
	secretValue, broken := "one", false
	b := newBroken(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.Contains(r.URL.Path, "kv1/"):
			answering(200, `{"data":{"k":"`+secretValue+`"}}`)(w, r)
		case broken:
			answering(500, `{"errors":["no database"]}`)(w, r)
		default:
			answering(200, `{"lease_id":"database/creds/app/1","lease_duration":3600,"renewable":false,"data":{"username":"u1"}}`)(w, r)
		}
	})
	b.login = goodLogin(1000000)
	c := &clock{}
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now, cfg.MaxRetries = c.now, 0 })
	r := brokenRequest("v", b.URL, map[string]string{"objects": `[{objectName: a, secretPath: kv1/a, secretKey: k},{objectName: u, secretPath: database/creds/app, secretKey: username}]`})
	r.Tokens["vault"] = longToken(r)
	r.Current = mustFetch(t, p, r).Versions
	secretValue, broken = "two", true
	c.advance(45 * time.Minute)
	after := mustFetch(t, p, r)
	wantFile(t, after, "a", "two")
	wantFile(t, after, "u", "u1")
	if fault.Of(after.Partial) != fault.Unavailable || len(after.Leases) != 1 || !after.RefreshAt.After(c.now()) {
		t.Errorf("partial %v, leases %v", after.Partial, after.Leases)
	}
	c.advance(20 * time.Minute) // the lease is over: nothing stands in
	testkit.Failure(p.Fetch(t.Context(), r))(t, fault.Unavailable)
}
