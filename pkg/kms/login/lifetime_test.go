//go:build lifetimes

package login_test

// These tests live as long as the tokens that they watch: make lifetimes.

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/kmsrig"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// A token that ends, by its max TTL, by a revocation or with its last use, is
// replaced without a failed call.
func TestLifetimeOfToken(t *testing.T) {
	for name, role := range map[string]map[string]any{
		"max TTL":        {"token_period": "0", "token_ttl": "2s", "token_max_ttl": "3s"},
		"batch":          {"token_period": "0", "token_ttl": "2s", "token_type": "batch"},
		"number of uses": {"token_num_uses": 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := kmsrig.New(t, vault)
			r.Write("auth/approle/role/"+r.Role(), role)
			c, m := connect(t, r.Args()...)
			for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				renew(t, c)
				testkit.Must(t, use(t, c))
			}
			if logins, failed := m.counts(); logins < 2 || failed > 0 {
				t.Errorf("%d logins, %d failed", logins, failed)
			}
		})
	}
}

// A periodic token is renewed, and needs one login.
func TestLifetimeOfPeriodicToken(t *testing.T) {
	t.Parallel()
	r := kmsrig.New(t, vault)
	r.Write("auth/approle/role/"+r.Role(), map[string]any{"token_period": "2s"})
	c, m := connect(t, r.Args()...)
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		testkit.Must(t, use(t, c))
		renew(t, c)
	}
	if logins, _ := m.counts(); logins != 1 {
		t.Errorf("%d logins, want 1 and renewals", logins)
	}
}
