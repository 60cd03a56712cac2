package vaulttest_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/vault/api"

	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

func TestTLS(t *testing.T) {
	s := vaulttest.New(t, vaulttest.Options{TLS: true, RequireClientCert: true, RootToken: "fixed"})
	if !strings.HasPrefix(s.Address, "https://127.0.0.1:") || s.RootToken != "fixed" {
		t.Errorf("server at %s with root token %s", s.Address, s.RootToken)
	}
	testkit.Must(t, s.EnableKV(t.Context(), "kv", 2))
	for name, tc := range map[string]struct {
		tls  api.TLSConfig
		want string
	}{
		"unknown authority": {api.TLSConfig{}, "certificate signed by unknown authority"},
		// The client's error depends on which end closes first.
		"no client certificate": {api.TLSConfig{CACert: s.CAFile}, "/v1/sys/health"},
		"wrong name": {api.TLSConfig{CACert: s.CAFile, ClientCert: s.ClientCertFile, ClientKey: s.ClientKeyFile,
			TLSServerName: "vault.example"}, "not vault.example"},
		"all in order": {api.TLSConfig{CACert: s.CAFile, ClientCert: s.ClientCertFile, ClientKey: s.ClientKeyFile,
			TLSServerName: "localhost"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			config := api.DefaultConfig()
			config.Address, config.MaxRetries = s.Address, 0
			testkit.Must(t, config.ConfigureTLS(&tc.tls))
			client, err := api.NewClient(config)
			testkit.Must(t, err)
			_, err = client.Sys().HealthWithContext(t.Context())
			if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

func TestDatabasePlugin(t *testing.T) {
	s := vaulttest.New(t, vaulttest.Options{})
	err := s.EnableDatabase(t.Context(), "database", "pg", map[string]any{
		"connection_url":    "postgresql://{{username}}:{{password}}@127.0.0.1:1/postgres",
		"username":          "vault",
		"password":          "irrelevant",
		"verify_connection": false,
	})
	testkit.Must(t, err)
	secret, err := s.Client().Logical().ReadWithContext(t.Context(), "database/config/pg")
	testkit.Must(t, err)
	if got := secret.Data["plugin_name"]; got != "postgresql-database-plugin" {
		t.Errorf("plugin %v", got)
	}
}

// TestLargeSecret checks that secrets beyond Vault's default limits can be stored, for tests of the
// driver's behaviour.
func TestLargeSecret(t *testing.T) {
	s := vaulttest.New(t, vaulttest.Options{})
	large := strings.Repeat("x", 10<<20)
	testkit.Must(t, s.EnableKV(t.Context(), "kv", 1))
	testkit.Must(t, s.PutKV1(t.Context(), "kv", "large", map[string]any{"value": large}))
	secret, err := s.Client().KVv1("kv").Get(t.Context(), "large")
	testkit.Must(t, err)
	if got, _ := secret.Data["value"].(string); got != large {
		t.Errorf("read %d bytes, want %d", len(got), len(large))
	}
}

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
