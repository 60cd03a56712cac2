package vaulttest

import (
	"os"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// New starts a Vault for a test, which stops it. Tests without special needs may share one that
// TestMain starts with Start.
func New(t testing.TB, opts Options) *Server {
	t.Helper()
	if opts.Progress == nil {
		opts.Progress = os.Stderr
	}
	s, err := Start(t.Context(), opts)
	testkit.Must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Vault said:\n%s", s.proc.logs)
		}
		testkit.Check(t, s.Stop())
	})
	return s
}
