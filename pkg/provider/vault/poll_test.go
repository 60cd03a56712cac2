package vault_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

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

// TestFreshIsReadOnce has all volumes of an edited class read at once.
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

// TestMetadataCheckIsNotForEver reads the data once an hour: the policy may now allow only the
// metadata.
func TestMetadataCheckIsNotForEver(t *testing.T) {
	w := shared
	c := &clock{}
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
	w.kv2(t, "watched/hour", map[string]any{"k": "one"})
	r := w.longTokens(t, w.request(t, w.pod("app"), nil, "- {objectName: f, secretPath: kv2/data/watched/hour, secretKey: k}"))
	mustFetch(t, p, r)
	state := p.Export(r.Volume)
	for _, want := range []struct{ polls, reads int }{{29, 0}, {30, 1}} {
		counts := w.counted(t, func() {
			for n := range want.polls {
				if n == 14 { // a restart does not count anew
					p = newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
					testkit.Must(t, p.Import(r.Volume, state))
				}
				c.advance(2 * time.Minute)
				mustFetch(t, p, r)
				state = p.Export(r.Volume)
			}
		})
		testkit.Equal(t, fmt.Sprintf("reads of the data in %d polls", want.polls), counts["kv2/data/watched/hour"], want.reads)
	}
}

// TestMetadataCheck reads only the version if the policy allows that.
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
		testkit.Value(w.Client().Logical().DeleteWithContext(t.Context(), "kv2/metadata/"+tc.path))(t)
		w.kv2(t, tc.path, map[string]any{"k": "x"})
		w.kv2(t, tc.path, map[string]any{"k": "another two"})
		c.advance(2 * time.Minute)
		wantFile(t, mustFetch(t, p, r), "f", "another two")

		testkit.Must(t, w.Write(t.Context(), "kv2/delete/"+tc.path, map[string]any{"versions": []int{2}}))
		c.advance(2 * time.Minute)
		testkit.Failure(p.Fetch(t.Context(), r))(t, fault.NotFound, "was deleted")
	}
}

// TestMetadataCheckOutlivesARevokedToken revokes the Vault token: a refusal of the metadata for that
// reason does not end the checks.
func TestMetadataCheckOutlivesARevokedToken(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	c := &clock{}
	p := newProvider(t, func(cfg *vault.Config) { cfg.Now = c.now })
	w.kv2(t, "watched/a", map[string]any{"k": "one"})
	r := w.request(t, w.pod("app"), nil, "- {objectName: f, secretPath: kv2/data/watched/a, secretKey: k}")
	mustFetch(t, p, r)
	testkit.Must(t, w.Write(t.Context(), "sys/leases/revoke-prefix/auth/kubernetes/login", nil))
	c.advance(2 * time.Minute)
	mustFetch(t, p, r)
	counts := w.counted(t, func() {
		for range 3 {
			c.advance(2 * time.Minute)
			mustFetch(t, p, r)
		}
	})
	if counts["kv2/metadata/watched/a"] != 3 || counts["kv2/data/watched/a"] != 0 {
		t.Errorf("requests %v, want a look at the version only", counts)
	}
}

// TestManyAskForNothing has volumes of one identity ask at once for a path that is not there. Those
// for which it is optional are served, and the others are told.
func TestManyAskForNothing(t *testing.T) {
	w := shared
	w.putShare(t, "v")
	p := newProvider(t, nil)
	mustFetch(t, p, w.request(t, w.pod("app"), nil, two))
	var wg sync.WaitGroup
	for i := range 20 {
		missing := w.request(t, w.pod("app"), nil, "- {objectName: a, secretPath: kv1/nowhere, secretKey: k}")
		wg.Go(func() {
			if i%2 == 0 {
				missing.Class.Parameters["objects"] = "- {objectName: a, secretPath: kv1/nowhere, secretKey: k, optional: true}"
			}
			_, err := p.Fetch(t.Context(), missing)
			if (err == nil) != (i%2 == 0) || (err != nil && fault.Of(err) != fault.NotFound) {
				t.Errorf("optional %v: %v", i%2 == 0, err)
			}
		})
	}
	wg.Wait()
}

// sshPublicKey is a new one as authorized_keys has it.
func sshPublicKey(t *testing.T) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	testkit.Must(t, err)
	var wire []byte
	for _, part := range [][]byte{[]byte("ssh-ed25519"), public} {
		wire = binary.BigEndian.AppendUint32(wire, uint32(len(part)))
		wire = append(wire, part...)
	}
	return "ssh-ed25519 " + base64.StdEncoding.EncodeToString(wire)
}

// enableSSH mounts the engine with a certificate authority and a role, whose
// certificates live for half an hour.
func (w *world) enableSSH(t *testing.T) {
	t.Helper()
	testkit.Must(t, w.Client().Sys().MountWithContext(t.Context(), "ssh", &api.MountInput{Type: "ssh"}))
	w.write(t, "ssh/config/ca", map[string]any{"generate_signing_key": true})
	w.write(t, "ssh/roles/app", map[string]any{
		"key_type": "ca", "allow_user_certificates": true, "allowed_users": "*", "default_user": "app", "ttl": "30m",
		"allow_empty_principals": true,
	})
}

func (w *world) write(t *testing.T, path string, data map[string]any) {
	t.Helper()
	testkit.Must(t, w.Write(t.Context(), path, data))
}

// longRequest is the request of a pod's volume whose service account token lives for a day, for tests
// that move the clock.
func (w *world) longRequest(t *testing.T, objects string) provider.Request {
	t.Helper()
	pod := w.pod("app")
	r := w.request(t, pod, nil, objects)
	tokens := testkit.Value(identity.ParseTokens(w.issuer.CSITokensFor(24*time.Hour, pod, "vault")))(t)
	r.Tokens = tokens
	return r
}

// TestMadeAtEachRead asks real engines for what each read makes anew. It is made
// once, replaced before its end, and belongs to one volume; what has no end is
// made again at the interval of the object, and not at that of the class.
func TestMadeAtEachRead(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	w.enableSSH(t)
	testkit.Must(t, w.Client().Sys().EnableAuthWithOptionsWithContext(t.Context(), "approle", &api.EnableAuthOptions{Type: "approle"}))
	w.write(t, "auth/approle/role/ending", map[string]any{"secret_id_ttl": "30m"})
	w.write(t, "auth/approle/role/endless", map[string]any{"secret_id_ttl": "0"})
	const class = time.Minute
	for name, tc := range map[string]struct {
		objects string
		within  time.Duration // it is the same this long after
		after   time.Duration // and another one after that; zero for never
		due     time.Duration // the next look, about; zero for none of its own
	}{
		"ssh/sign": {"- {objectName: f, secretPath: ssh/sign/app, secretKey: signed_key, method: POST, secretArgs: {public_key: " + sshPublicKey(t) + "}}",
			15 * time.Minute, 21 * time.Minute, 20 * time.Minute},
		"ssh/issue": {"- {objectName: f, secretPath: ssh/issue/app, secretKey: private_key, method: POST, secretArgs: {key_type: ed25519}}\n" +
			"- {objectName: cert, secretPath: ssh/issue/app, secretKey: signed_key, method: POST}",
			15 * time.Minute, 21 * time.Minute, 20 * time.Minute},
		"secret-id":             {"- {objectName: f, secretPath: auth/approle/role/ending/secret-id, secretKey: secret_id, method: POST}", 15 * time.Minute, 21 * time.Minute, 20 * time.Minute},
		"secret-id without end": {"- {objectName: f, secretPath: auth/approle/role/endless/secret-id, secretKey: secret_id, method: POST}", 20 * time.Hour, 0, 0},
		"transit/datakey":       {"- {objectName: f, secretPath: transit/datakey/plaintext/app, secretKey: ciphertext, method: POST}", 20 * time.Hour, 0, 0},
		"with an interval of its own": {"- {objectName: f, secretPath: transit/datakey/plaintext/app, secretKey: ciphertext, method: POST, refreshInterval: 2h}",
			115 * time.Minute, 121 * time.Minute, 2 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			var now clock
			p := newProvider(t, func(c *vault.Config) { c.Now, c.Jitter = now.now, func() float64 { return 0 } })
			r := w.longRequest(t, tc.objects)
			r.Class.RefreshInterval = class
			first := mustFetch(t, p, r)
			if name == "ssh/issue" && !strings.HasPrefix(files(first)["cert"], "ssh-ed25519-cert-v01@openssh.com ") {
				t.Errorf("the certificate is %q", files(first)["cert"])
			}
			if tc.due > 0 {
				if wait := time.Until(first.RefreshAt); wait > tc.due || wait < tc.due-2*time.Minute {
					t.Errorf("due in %s, want about %s", wait, tc.due)
				}
			} else if !first.RefreshAt.IsZero() {
				t.Errorf("due at %s, want at no time", first.RefreshAt)
			}
			other := mustFetch(t, p, w.request(t, w.pod("app"), nil, tc.objects))
			if files(other)["f"] == files(first)["f"] {
				t.Error("two volumes share what was made for one")
			}
			same := func() bool { return files(mustFetch(t, p, r))["f"] == files(first)["f"] }
			now.advance(tc.within)
			if !same() {
				t.Errorf("after %s it was made anew", tc.within)
			}
			if tc.after > 0 {
				now.advance(tc.after - tc.within)
				if same() {
					t.Errorf("after %s it is still the first", tc.after)
				}
				return
			}
			r.Fresh = true
			if same() {
				t.Error("a refresh by hand did not make it anew")
			}
		})
	}
}

// TestShortestInterval: the operator's bound holds for objects too.
func TestShortestInterval(t *testing.T) {
	w := shared
	p := newProvider(t, func(c *vault.Config) { c.MinInterval, c.Jitter = time.Hour, func() float64 { return 0 } })
	w.kv1(t, "often", map[string]any{"k": "v"})
	r := w.request(t, w.pod("app"), nil, "- {objectName: f, secretPath: kv1/often, secretKey: k, refreshInterval: 5s}")
	r.Class.RefreshInterval = 2 * time.Hour
	payload := mustFetch(t, p, r)
	if wait := time.Until(payload.RefreshAt); wait < 59*time.Minute || wait > time.Hour {
		t.Errorf("due in %s, want in an hour", wait)
	}
	testkit.Has(t, strings.Join(payload.Warnings, "\n"), "objects[0].refreshInterval: is less than the operator allows: 1h0m0s is used")
}

// TestRevokedElsewhere has an operator revoke, on a real database, what a volume
// holds: the lease, or the Vault token that it hangs on.
func TestRevokedElsewhere(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	pg := newPostgres(t, w)
	pg.Role(t, w.Server, "app", "2h", "24h")
	const objects = "- {objectName: user, secretPath: database/creds/app, secretKey: username}\n- {objectName: password, secretPath: database/creds/app, secretKey: password}"
	for name, prefix := range map[string]string{"the lease": "database/creds/app", "its Vault token": "auth/kubernetes/login"} {
		for when, later := range map[string]func(*clock, *provider.Request){
			"by hand":  func(now *clock, r *provider.Request) { now.advance(time.Minute); r.Fresh = true },
			"in hours": func(now *clock, _ *provider.Request) { now.advance(61 * time.Minute) },
		} {
			t.Run(name+", "+when, func(t *testing.T) {
				var now clock
				p := newProvider(t, func(c *vault.Config) { c.Now = now.now })
				r := w.longRequest(t, objects)
				first := files(mustFetch(t, p, r))
				if !pg.LogsIn(t, first["user"], first["password"]) {
					t.Fatal("the database refuses a new credential")
				}
				w.write(t, "sys/leases/revoke-prefix/"+prefix, nil)
				testkit.Eventually(t, "the database has dropped the role", func() bool { return pg.Users(t) == 0 })
				later(&now, &r)
				next := files(mustFetch(t, p, r))
				if next["user"] == first["user"] || !pg.LogsIn(t, next["user"], next["password"]) {
					t.Errorf("the files hold %s after the revocation of %s", next["user"], first["user"])
				}
				testkit.Must(t, p.Release(t.Context(), r.Volume))
				testkit.Eventually(t, "the role is gone", func() bool { return pg.Users(t) == 0 })
			})
		}
	}
}
