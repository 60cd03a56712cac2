package vault_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

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
	if payload, err := p.Fetch(t.Context(), r); fault.Of(err) != fault.Unavailable {
		t.Errorf("%v, %v", payload, err)
	}
}
