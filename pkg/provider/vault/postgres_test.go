package vault_test

import (
	"testing"

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
