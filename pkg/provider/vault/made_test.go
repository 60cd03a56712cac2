package vault_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

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
	tokens, err := identity.ParseTokens(w.issuer.CSITokensFor(24*time.Hour, pod, "vault"))
	testkit.Must(t, err)
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
	if said := strings.Join(payload.Warnings, "\n"); !strings.Contains(said, "objects[0].refreshInterval: is less than the operator allows: 1h0m0s is used") {
		t.Errorf("warnings %q", said)
	}
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
