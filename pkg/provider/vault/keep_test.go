package vault_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestRestart imports volumes of every kind after a restart: they make no request and have the same
// files. Later their leases are renewed, and not issued again.
func TestRestart(t *testing.T) {
	t.Parallel()
	w, pg := databaseWorld(t)
	w.putShare(t, "v")
	const pki = "- {objectName: crt, secretPath: pki/issue/app, secretKey: certificate, method: POST, secretArgs: {common_name: a.example}}\n" +
		"- {objectName: cipher, secretPath: transit/encrypt/app, secretKey: ciphertext, method: POST, secretArgs: {plaintext: aGVsbG8=}}\n" +
		"- {objectName: none, secretPath: kv1/none, secretKey: k, optional: true}\n"
	c := &clock{}
	adjust := func(cfg *vault.Config) { cfg.Now = c.now }
	first := newProvider(t, adjust)
	var requests []provider.Request
	for i := range 12 {
		params := map[string]string{}
		if i%3 == 1 {
			params = map[string]string{"vaultAuthMountPath": "jwt", "roleName": "pod"}
		}
		r := w.request(t, w.pod("app"), params, dbObjects+pki)
		if i%3 == 2 {
			r.Class.CredentialScope = class.ScopeServiceAccount
		}
		requests = append(requests, r)
	}
	before := map[string]*provider.Payload{}
	states := map[string]secret.Bytes{}
	for _, r := range requests {
		before[r.Volume] = mustFetch(t, first, r)
	}
	for _, r := range requests {
		states[r.Volume] = first.Export(r.Volume)
	}
	users := pg.Users(t)

	second := newProvider(t, adjust)
	counts := w.counted(t, func() {
		for _, r := range requests {
			testkit.Must(t, second.Import(r.Volume, states[r.Volume]))
		}
		for _, r := range requests {
			r.Tokens = nil // nobody needs to log in
			after := mustFetch(t, second, r)
			if !maps.Equal(files(before[r.Volume]), files(after)) || !slices.Equal(before[r.Volume].Versions, after.Versions) {
				t.Errorf("%s differs after a restart", r.Volume)
			}
			if !slices.Equal(before[r.Volume].Leases, after.Leases) && !sameLeases(before[r.Volume].Leases, after.Leases) {
				t.Errorf("leases %+v, then %+v", before[r.Volume].Leases, after.Leases)
			}
		}
	})
	if counts.Under("") != 0 {
		t.Errorf("a restart made requests: %v", counts)
	}

	c.advance(42 * time.Minute) // leases are due, and everything that is polled
	counts = w.counted(t, func() {
		for _, r := range requests {
			mustFetch(t, second, r)
		}
	})
	if counts["database/creds/app"] != 0 || counts["sys/leases/renew"] == 0 || counts["pki/issue/app"] != 0 {
		t.Errorf("after the restart leases must be renewed, not made anew: %v", counts)
	}
	testkit.Equal(t, "users, as before", pg.Users(t), users)
	for _, r := range requests {
		testkit.Must(t, second.Release(t.Context(), r.Volume))
	}
	testkit.Eventually(t, "all roles are gone", func() bool { return pg.Users(t) == 0 })
}

func sameLeases(a, b []provider.Lease) bool {
	return slices.EqualFunc(a, b, func(x, y provider.Lease) bool {
		return x.ID == y.ID && x.Object == y.Object && x.Expires.Round(0).Equal(y.Expires.Round(0))
	})
}

// TestUnreleasedIsKept: another process revokes tokens that could not be revoked before.
func TestUnreleasedIsKept(t *testing.T) {
	b := newBroken(t, answering(200, `{"data":{"k":"v"}}`))
	p := newProvider(t, nil)
	mustFetch(t, p, brokenRequest("v", b.URL, nil))
	b.setRead(answering(503, `{"errors":["Vault is sealed"]}`))
	if err := p.Release(t.Context(), "v"); fault.Of(err) != fault.Unavailable {
		t.Fatalf("a sealed Vault: %v", err)
	}
	b.setRead(answering(204, ""))
	next := newProvider(t, nil)
	testkit.Must(t, next.Import("v", p.Export("v")))
	before := b.count("revoke-self")
	if err := next.Release(t.Context(), "v"); err != nil || b.count("revoke-self") != before+1 {
		t.Errorf("%v, requests %q", err, b.seen)
	}
}

// TestStateOfAnEarlierVersion imports the state of an earlier version: its answers and its lease need
// no request, and Release revokes its three tokens.
func TestStateOfAnEarlierVersion(t *testing.T) {
	kept := testkit.Value(os.ReadFile("testdata/state-v1.json"))(t)
	b := newBroken(t, answering(204, ""))
	now := time.Date(2031, 5, 1, 12, 1, 0, 0, time.UTC)
	p := newProvider(t, func(c *vault.Config) { c.Now = func() time.Time { return now } })
	testkit.Must(t, p.Import("v", secret.NewBytes(bytes.ReplaceAll(kept, []byte("ADDRESS"), []byte(b.URL)))))
	r := brokenRequest("v", b.URL, map[string]string{"objects": "- {objectName: a, secretPath: kv1/a, secretKey: k}\n- {objectName: u, secretPath: database/creds/a, secretKey: username}\n"})
	r.Tokens = nil
	payload := mustFetch(t, p, r)
	wantFile(t, payload, "a", "v")
	wantFile(t, payload, "u", "u")
	if len(payload.Leases) != 1 || payload.Leases[0].ID != "database/creds/a/1" || b.count("") != 0 {
		t.Errorf("leases %+v, requests %q", payload.Leases, b.seen)
	}
	if err := p.Release(t.Context(), "v"); err != nil || b.count("revoke-self") != 3 {
		t.Errorf("%v, requests %q, want three tokens revoked", err, b.seen)
	}
}

// TestImportOfRubbish: a state that is no longer what Export gave names what is wrong, without
// quoting it, and the volume is fetched again.
func TestImportOfRubbish(t *testing.T) {
	b := newBroken(t, answering(200, `{"lease_id":"x","lease_duration":600,"renewable":true,"data":{"k":"v"}}`))
	p := newProvider(t, nil)
	r := brokenRequest("v", b.URL, nil)
	mustFetch(t, p, r)
	good := string(p.Export("v").Reveal())
	for name, c := range map[string]struct{ old, new, says string }{
		"login of another shape": {`"login":{"address":"` + b.URL + `"`, `"login":{"address":5`, "a login"},
		"address of nothing":     {b.URL, markValue, "a login"},
		"token without a login":  {`"tokens":[{"login":{"address":"` + b.URL + `"`, `"tokens":[{"login":{"address":"` + markValue + `"`, "a login"},
		"answer of another form": {`"body":{"lease_id":"x"`, `"body":{"lease_id":5`, ""},
	} {
		next := newProvider(t, nil)
		err := next.Import("v", secret.NewBytes([]byte(strings.ReplaceAll(good, c.old, c.new))))
		if fault.Of(err) != fault.State || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), markValue) || strings.Contains(err.Error(), markToken) {
			t.Errorf("%s: %s: %v", name, fault.Of(err), err)
		}
		wantFile(t, mustFetch(t, next, r), "a", "v")
	}
}

func FuzzImport(f *testing.F) {
	b := newBroken(f, answering(200, `{"lease_id":"x","lease_duration":600,"renewable":true,"data":{"k":"v"}}`))
	p := newProvider(f, nil)
	r := brokenRequest("v", b.URL, nil)
	mustFetch(f, p, r)
	f.Add(p.Export("v").Reveal())
	f.Add([]byte(`{"version":1,"identity":{"login":{"address":"http://x"}},"session":{"login":{"address":"unix:///x"},"value":"t"}}`))
	f.Add([]byte(`{"version":1,"own":{"held":[{"token":5,"reading":{"kind":3,"body":{"data":{}}}}]}}`))
	f.Fuzz(func(t *testing.T, state []byte) {
		next := testkit.Value(vault.New(vault.Config{Name: vault.NameVault, Settings: endpoint.Settings{AllowLocalAddresses: true}}))(t)
		if next.Import("v", secret.NewBytes(state)) == nil {
			if again := next.Export("v"); next.Import("w", again) != nil {
				t.Errorf("what was taken in cannot be written and read again: %s", fmt.Sprint(again.Len()))
			}
		}
	})
}

// TestStaleStateOfASharedCredential imports two volumes that share a credential, one of which has not
// written its state since the renewal. In either order the store issues nothing.
func TestStaleStateOfASharedCredential(t *testing.T) {
	t.Parallel()
	w, _ := databaseWorld(t)
	c := &clock{}
	adjust := func(cfg *vault.Config) { cfg.Now = c.now }
	p := newProvider(t, adjust)
	const user = "- {objectName: user, secretPath: database/creds/app, secretKey: username}\n"
	var requests []provider.Request
	states := map[string]secret.Bytes{}
	for range 2 {
		r := w.longTokens(t, w.request(t, w.pod("app"), nil, user))
		r.Class.CredentialScope = class.ScopeServiceAccount
		requests = append(requests, r)
		mustFetch(t, p, r)
	}
	before := files(mustFetch(t, p, requests[0]))
	for _, r := range requests {
		states[r.Volume] = p.Export(r.Volume)
	}
	c.advance(42 * time.Minute)
	mustFetch(t, p, requests[0])
	states[requests[0].Volume] = p.Export(requests[0].Volume)
	c.advance(30 * time.Minute) // past the end that the stale state knows
	for _, order := range [][]provider.Request{requests, {requests[1], requests[0]}} {
		next := newProvider(t, adjust)
		counts := w.counted(t, func() {
			for _, r := range order {
				testkit.Must(t, next.Import(r.Volume, states[r.Volume]))
			}
			for _, r := range order {
				testkit.Equal(t, "the files of the next process", files(mustFetch(t, next, r)), before)
			}
		})
		if counts["database/creds/app"] != 0 || under(counts, "/login") != 0 {
			t.Errorf("requests %v, want no login and no credential", counts)
		}
	}
}

// TestStateIsSmall has a volume with a large secret: its state leaves that out,
// and a restart reads it again when the volume is due, and the rest not.
func TestStateIsSmall(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	w.kv1(t, "large", map[string]any{"k": strings.Repeat("x", 200<<10)})
	p := newProvider(t, nil)
	r := w.request(t, w.pod("app"), nil, two+"- {objectName: large, secretPath: kv1/large, secretKey: k}\n")
	before := mustFetch(t, p, r)
	state := p.Export(r.Volume)
	if state.Len() > 64<<10 {
		t.Errorf("the state has %d bytes", state.Len())
	}
	next := newProvider(t, nil)
	counts := w.counted(t, func() {
		testkit.Must(t, next.Import(r.Volume, state))
	})
	if counts.Under("") != 0 {
		t.Errorf("requests %v at the restart itself", counts)
	}
	counts = w.counted(t, func() {
		testkit.Equal(t, "the files differ", files(before), files(mustFetch(t, next, r)))
	})
	if counts["kv1/large"] != 1 || counts.Under("") != 1 {
		t.Errorf("requests %v, want one read", counts)
	}
}

func TestReleaseIsBounded(t *testing.T) {
	b := newBroken(t, answering(200, `{"data":{"k":"v"}}`))
	p := newProvider(t, func(c *vault.Config) { c.ReleaseTimeout = 100 * time.Millisecond })
	r := brokenRequest("v", b.URL, nil)
	mustFetch(t, p, r)
	b.setRead(hang)
	testkit.Fails(t, p.Release(t.Context(), "v"), fault.Timeout)
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

// TestTokensWithoutTheDefaultPolicy has tokens that may neither renew nor revoke themselves: the log
// says so once for the role, and the driver tries the revocation.
func TestTokensWithoutTheDefaultPolicy(t *testing.T) {
	t.Parallel()
	w, _ := databaseWorld(t)
	testkit.Must(t, w.Write(t.Context(), "auth/kubernetes/role/app", map[string]any{"token_no_default_policy": true}))
	c := &clock{}
	var log bytes.Buffer
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now, cfg.Logger = c.now, slog.New(slog.NewTextHandler(&log, nil)) })
	const user = "- {objectName: user, secretPath: database/creds/app, secretKey: username}\n"
	for range 2 {
		r := w.longTokens(t, w.request(t, w.pod("app"), nil, user))
		mustFetch(t, p, r)
		c.advance(42 * time.Minute)
		mustFetch(t, p, r)
		counts := w.counted(t, func() {
			testkit.Check(t, p.Release(t.Context(), r.Volume))
		})
		if counts["auth/token/revoke-self"] != 2 {
			t.Errorf("requests %v, want both tokens tried", counts)
		}
	}
	if n := strings.Count(log.String(), "revoke itself"); n != 1 {
		t.Errorf("told %d times, want once:\n%s", n, log.String())
	}
}

// The pod that takes the last one's place finds a warm connection.
func TestConnectionOutlivesTheLastVolume(t *testing.T) {
	var from []string
	b := newBroken(t, func(w http.ResponseWriter, r *http.Request) {
		from = append(from, r.RemoteAddr)
		answering(200, `{"data":{"k":"v"}}`)(w, r)
	})
	p := newProvider(t, nil)
	for _, volume := range []string{"first", "second"} {
		mustFetch(t, p, brokenRequest(volume, b.URL, nil))
		testkit.Must(t, p.Release(t.Context(), volume))
	}
	if len(from) < 2 || from[0] != from[len(from)-1] {
		t.Errorf("asked from %q, not over one connection", from)
	}
}

const withCertificate = "- {objectName: a, secretPath: kv1/share, secretKey: k}\n" +
	"- {objectName: crt, secretPath: pki/issue/app, method: POST, secretArgs: {common_name: a.example}, secretKey: certificate}\n"

// mayMiss is a class's objects, the second of which is not in the store.
func mayMiss(optional bool) string {
	return fmt.Sprintf("- {objectName: a, secretPath: kv1/share, secretKey: k}\n- {objectName: b, secretPath: kv1/none, secretKey: k, optional: %t}\n", optional)
}

// TestRecall starts pods from what others have read while the store is unavailable.
func TestRecall(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	jwt := map[string]string{"vaultAuthMountPath": "jwt", "roleName": "pod"}
	shareCreds := func(r *provider.Request) {
		c := *r.Class
		c.CredentialScope = class.ScopeServiceAccount
		r.Class = &c
	}
	for _, tc := range []struct {
		name    string
		account string
		params  map[string]string
		objects string
		change  func(live, asked *provider.Request)
		age     time.Duration
		want    bool
	}{
		{name: "another pod of the service account", account: "app", objects: two, want: true},
		{name: "another service account", account: "web-1", objects: two},
		{name: "too old", account: "app", objects: two, age: 20 * time.Minute},
		{name: "another role", account: "app", objects: two, change: func(_, asked *provider.Request) {
			c := *asked.Class
			c.Parameters = map[string]string{"roleName": "other", "objects": two, "vaultAddress": w.Address}
			c.ResourceVersion += "x"
			asked.Class = &c
		}},
		{name: "a re-created service account", account: "app", objects: two, change: func(_, asked *provider.Request) {
			tok := asked.Tokens["vault"]
			tok.Claims.ServiceAccountUID = "another-uid"
			asked.Tokens["vault"] = tok
		}},
		{name: "no valid token", account: "app", objects: two, change: func(_, asked *provider.Request) { asked.Tokens = nil }},
		{name: "an identity of the pod's own", account: "app", params: jwt, objects: two},
		{name: "something that was never read", account: "app", objects: two, change: func(live, _ *provider.Request) {
			c := *live.Class
			c.Parameters = map[string]string{"roleName": "app", "vaultAddress": w.Address, "objects": "- {objectName: a, secretPath: kv1/share, secretKey: k}"}
			c.ResourceVersion += "x"
			live.Class = &c
		}},
		{name: "something that another class does not mind missing", account: "app", objects: mayMiss(false), change: func(live, _ *provider.Request) {
			c := *live.Class
			c.Parameters = map[string]string{"roleName": "app", "vaultAddress": w.Address, "objects": mayMiss(true)}
			c.ResourceVersion += "x"
			live.Class = &c
		}},
		{name: "a certificate made for another pod", account: "app", objects: withCertificate},
		{name: "a certificate that the service account shares", account: "app", objects: withCertificate, want: true, change: func(live, asked *provider.Request) {
			shareCreds(live)
			shareCreds(asked)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &clock{}
			p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
			live := w.request(t, w.pod("app"), tc.params, tc.objects)
			asked := w.request(t, w.pod(tc.account), tc.params, tc.objects)
			if tc.change != nil {
				tc.change(&live, &asked)
			}
			mustFetch(t, p, live)
			at := c.now()
			c.advance(tc.age)
			var payload *provider.Payload
			var asOf time.Time
			var ok bool
			counts := w.counted(t, func() { payload, asOf, ok = p.Recall(asked, c.now().Add(-10*time.Minute)) })
			if ok != tc.want || len(counts) != 0 {
				t.Fatalf("recalled %t with %d requests, want %t with none", ok, len(counts), tc.want)
			}
			if ok {
				wantFile(t, payload, "a", "v")
				if asOf.After(at) || len(payload.Files) != 2 {
					t.Errorf("as of %s, read before %s, files %v", asOf, at, files(payload))
				}
			}
		})
	}
}
