//go:build e2e

package main

import (
	"encoding/json"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestRealAPIServer lets pods live with a real API server. The requests that its audit log has are
// counted like those of the double.
func TestRealAPIServer(t *testing.T) {
	stdout, stderr, code := run(t, "--json", "--real-api-server", "--only=life")
	if code != 0 {
		t.Fatalf("exit code %d:\n%s", code, stderr)
	}
	var r results
	testkit.Must(t, json.Unmarshal([]byte(stdout), &r))
	for what, want := range map[string]int{"status create": 4, "status delete": 4} {
		if r.Life.API[what] != want || len(r.Life.API) != 2 {
			t.Errorf("requests to the API server: %v, want %d of %s", r.Life.API, want, what)
		}
	}
	if r.Life.Vault.Logins != 4 || r.Life.Vault.Reads != 8 || len(r.Life.Publish) != lives {
		t.Errorf("%+v", r.Life)
	}
}
