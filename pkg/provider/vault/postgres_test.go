package vault_test

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/postgres"
)

// newPostgres starts a server for the test, with w's database engine on it and
// a user for static roles.
func newPostgres(t *testing.T, w *world) *postgres.Server {
	t.Helper()
	pg := postgres.New(t)
	pg.Query(t, "CREATE ROLE batch LOGIN PASSWORD 'old'")
	pg.Enable(t, w.Server)
	return pg
}

// eventually polls a condition until it holds.
func eventually(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("still not so after %s: %s", within, what)
		}
	}
}
