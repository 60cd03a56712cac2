package vaulttest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

func TestAuditLogBeingWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	s := vaulttest.Server{AuditFile: path}
	for name, tc := range map[string]struct {
		log     string
		entries int
		fails   bool
	}{
		"empty":        {"", 0, false},
		"partial line": {`{"type":"request"}` + "\n" + `{"type":"resp`, 1, false},
		"garbage":      {"garbage\n", 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Must(t, os.WriteFile(path, []byte(tc.log), 0o600))
			entries, err := s.AuditEntries(t.Context())
			if len(entries) != tc.entries || (err != nil) != tc.fails {
				t.Errorf("%d entries, %v", len(entries), err)
			}
		})
	}
}

// TestMarkInALine: a mark that is made while a line is written comes before the whole line.
func TestMarkInALine(t *testing.T) {
	line := `{"type":"request","error":"` + strings.Repeat("x", 10_000) + `"}` + "\n"
	for name, tc := range map[string]struct {
		before, after string
		entries       int
	}{
		"nothing yet":         {"", line, 1},
		"the first line":      {line[:20], line[20:], 1},
		"a long way into one": {line + line[:9_000], line[9_000:] + line, 2},
		"a page's edge":       {line + line[:4096], line[4096:], 1},
		"between lines":       {line + line, line, 1},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.log")
			s := vaulttest.Server{AuditFile: path}
			testkit.Must(t, os.WriteFile(path, []byte(tc.before), 0o600))
			mark, err := s.Mark()
			testkit.Must(t, err)
			testkit.Must(t, os.WriteFile(path, []byte(tc.before+tc.after), 0o600))
			if entries, err := s.AuditEntriesSince(t.Context(), mark); err != nil || len(entries) != tc.entries {
				t.Errorf("%d entries, want %d: %v", len(entries), tc.entries, err)
			}
		})
	}
}

func TestStopLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s, err := vaulttest.Start(t.Context(), vaulttest.Options{TLS: true, Progress: os.Stderr})
	testkit.Must(t, err)
	client := s.Client()
	for range 2 {
		testkit.Must(t, s.Stop())
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := client.Sys().HealthWithContext(t.Context()); err == nil {
		t.Error("serves after Stop")
	}
}

func TestEnvironmentIsIgnored(t *testing.T) {
	t.Setenv("VAULT_ADDR", "http://127.0.0.1:1")
	t.Setenv("VAULT_TOKEN", "wrong")
	t.Setenv("VAULT_NAMESPACE", "wrong")
	s := vaulttest.New(t, vaulttest.Options{})
	if _, err := s.Client().Auth().Token().LookupSelfWithContext(t.Context()); err != nil {
		t.Error(err)
	}
}
