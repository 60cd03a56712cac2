//go:build lifetimes

package vault_test

// These tests live as long as the credentials that they watch: make lifetimes.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

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

// TestLifetimeOfLeases lives through several max TTLs of a database role, and of the
// Vault token, on the real clock. At no moment do the files hold a credential
// that the database refuses; in the end it is gone from there.
func TestLifetimeOfLeases(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	pg := newPostgres(t, w)
	w.putShare(t, "v")
	pg.Role(t, w.Server, "app", "3s", "7s")
	testkit.Must(t, w.Write(t.Context(), "auth/kubernetes/role/app", map[string]any{"token_ttl": "4s", "token_max_ttl": "11s"}))
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
	testkit.Equal(t, "reads of a KV secret within its interval", counts["kv1/share"], 1)
	testkit.Must(t, p.Release(t.Context(), r.Volume))
	testkit.Eventually(t, "all roles are gone from the database", func() bool { return pg.Users(t) == 0 })
}

// TestLifetimeCertificates lives through several short lives of a certificate. The
// files never hold one that is over, nor a key of another.
func TestLifetimeCertificates(t *testing.T) {
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
			cert := testkit.Value(x509.ParseCertificate(block.Bytes))(t)
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

// TestLifetimeStaticRole follows rotations on Vault's own schedule.
func TestLifetimeStaticRole(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	newPostgres(t, w)
	testkit.Must(t, w.Write(t.Context(), "database/static-roles/batch", map[string]any{"db_name": "pg", "username": "batch", "rotation_period": "5s"}))
	p := newProvider(t, nil)
	r := w.request(t, w.pod("app"), nil, `
- {objectName: user, secretPath: database/static-creds/batch, secretKey: username}
- {objectName: password, secretPath: database/static-creds/batch, secretKey: password}`)
	passwords := map[string]bool{}
	counts := w.counted(t, func() {
		watch(t, p, r, 20*time.Second, func(payload *provider.Payload) {
			f := files(payload)
			passwords[f["password"]] = true
			testkit.Equal(t, "leases of a static role", len(payload.Leases), 0)
		})
	})
	if len(passwords) < 2 {
		t.Errorf("%d passwords in 20 s, rotated every 5 s or so", len(passwords))
	}
	if n := counts["database/static-creds/batch"]; n > 20 {
		t.Errorf("%d reads in 20 s", n)
	}
}

// TestLifetimeBatchTokens has Vault tokens that cannot be renewed and leases
// that would live longer.
func TestLifetimeBatchTokens(t *testing.T) {
	t.Parallel()
	w, pg := databaseWorld(t)
	w.putShare(t, "v")
	testkit.Must(t, w.Write(t.Context(), "auth/kubernetes/role/app", map[string]any{"token_type": "batch", "token_ttl": "5s"}))
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
	testkit.Eventually(t, "the roles ended with their tokens", func() bool { return pg.Users(t) == 0 })
}

// TestLifetimeStaticRoleBySchedule follows a rotation by schedule, whose moment Vault
// announces as passed before it comes to it, and one by hand.
func TestLifetimeStaticRoleBySchedule(t *testing.T) {
	t.Parallel()
	w := ownWorld(t)
	pg := newPostgres(t, w)
	w.write(t, "database/static-roles/batch", map[string]any{"db_name": "pg", "username": "batch", "rotation_schedule": "* * * * *", "rotation_window": "1h"})
	r := w.request(t, w.pod("app"), nil, `
- {objectName: user, secretPath: database/static-creds/batch, secretKey: username}
- {objectName: password, secretPath: database/static-creds/batch, secretKey: password}`)
	r.Class.RefreshInterval = time.Hour
	p := newProvider(t, nil)
	passwords := map[string]bool{}
	watch(t, p, r, 75*time.Second, func(payload *provider.Payload) {
		f := files(payload)
		if passwords[f["password"]] = true; len(passwords) == 2 && !pg.LogsIn(t, f["user"], f["password"]) {
			t.Error("the database refuses the new password")
		}
	})
	if len(passwords) < 2 {
		t.Error("no rotation came in 75 s of a schedule of each minute")
	}
	var now clock
	p = newProvider(t, func(c *vault.Config) { c.Now = now.now })
	w.write(t, "database/static-roles/batch", map[string]any{"db_name": "pg", "username": "batch", "rotation_schedule": "0 0 1 1 *", "rotation_window": "1h"})
	r = w.request(t, w.pod("app"), nil, r.Class.Parameters["objects"])
	r.Class.RefreshInterval = time.Minute
	before := files(mustFetch(t, p, r))["password"]
	w.write(t, "database/rotate-role/batch", nil)
	now.advance(time.Minute + time.Second)
	after := files(mustFetch(t, p, r))["password"]
	if after == before || !pg.LogsIn(t, "batch", after) {
		t.Error("a rotation by hand does not show within the interval")
	}
}
