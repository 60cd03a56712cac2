package postgres_test

import (
	"testing"

	"github.com/mayfly-csi/mayfly/test/postgres"
)

// LogsIn must depend on both halves of a pair, and on its expiry.
func TestLogsIn(t *testing.T) {
	pg := postgres.New(t)
	pg.Query(t, `CREATE ROLE "v-web" LOGIN PASSWORD 'right'; CREATE ROLE "v-late" LOGIN PASSWORD 'right' VALID UNTIL '2001-01-01'`)
	for _, tc := range []struct {
		name, password string
		want           bool
	}{
		{"v-web", "right", true},
		{"v-web", "wrong", false},
		{"v-late", "right", false},
		{"v-nobody", "right", false},
	} {
		if got := pg.LogsIn(t, tc.name, tc.password); got != tc.want {
			t.Errorf("%s with password %q: %v, want %v", tc.name, tc.password, got, tc.want)
		}
	}
	if n := pg.Users(t); n != 2 {
		t.Errorf("%d users, want 2", n)
	}
}
