package vaulttest_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// installScript puts a program called vault first on PATH.
func installScript(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	testkit.Must(t, os.WriteFile(filepath.Join(dir, "vault"), []byte("#!/bin/sh\n"+script), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// TestInstalled tests an installed vault with a script that accepts the dev mode's command line,
// serves with vaultd and prints the same as dev mode.
func TestInstalled(t *testing.T) {
	vaultd := testkit.Value(toolcache.Get(t.Context(), os.Stderr, "vaultd"))(t)
	installScript(t, fmt.Sprintf(`
[ "$1 $2 $3" = "server -dev -dev-no-store-token" ] || { echo "unexpected: $*" >&2; exit 1; }
%q --exit-with-stdin --listen "${5#-dev-listen-address=}" --root-token "${4#-dev-root-token-id=}" |
	sed -u 's/.*"unsealKey":"\([^"]*\)".*/Unseal Key: \1/'
`, vaultd))
	s := vaulttest.New(t, vaulttest.Options{PreferInstalled: true, RootToken: "dev-root"})
	if !s.Installed || s.RootToken != "dev-root" {
		t.Errorf("installed %v, root token %s", s.Installed, s.RootToken)
	}
	testkit.Must(t, s.Seal(t.Context()))
	testkit.Must(t, s.Unseal(t.Context()))
	testkit.Must(t, s.EnableKV(t.Context(), "secret", 2))
	if counts, err := s.CountRequests(t.Context(), vaulttest.Mark{}); err != nil || counts["sys/mounts/secret"] != 1 {
		t.Errorf("audited %v, %v", counts, err)
	}
}

func TestStartExplainsFailure(t *testing.T) {
	installScript(t, "echo 'no licence, no vault' >&2; exit 3\n")
	_, err := vaulttest.Start(t.Context(), vaulttest.Options{PreferInstalled: true})
	testkit.Says(t, err, "no licence, no vault", "exit status 3")

	missing := filepath.Join(t.TempDir(), "missing", "audit.log")
	testkit.Must(t, os.WriteFile(filepath.Dir(missing), nil, 0o600))
	_, err = vaulttest.Start(t.Context(), vaulttest.Options{AuditFile: missing})
	testkit.Says(t, err, "enabling the audit device")

	if _, err = vaulttest.Start(t.Context(), vaulttest.Options{RequireClientCert: true}); err == nil {
		t.Error("no error for a client certificate without TLS")
	}
}

func TestVaultdEndsWithItsParent(t *testing.T) {
	vaultd := testkit.Value(toolcache.Get(t.Context(), os.Stderr, "vaultd"))(t)
	cmd := exec.CommandContext(t.Context(), vaultd, "--exit-with-stdin")
	cmd.Stderr = os.Stderr
	stdin := testkit.Value(cmd.StdinPipe())(t)
	stdout := testkit.Value(cmd.StdoutPipe())(t)
	testkit.Must(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, `{"address":"http://127.0.0.1:`) {
		t.Errorf("first line %q, %v", line, err)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestVaultdRefusesFlags(t *testing.T) {
	vaultd := testkit.Value(toolcache.Get(t.Context(), os.Stderr, "vaultd"))(t)
	for want, args := range map[string][]string{
		"not a loopback address": {"--listen", "0.0.0.0:0"},
		"missing port":           {"--listen", "127.0.0.1"},
		"needs --tls-dir":        {"--tls-require-client-cert"},
		"unexpected argument":    {"server"},
	} {
		out, err := exec.CommandContext(t.Context(), vaultd, args...).CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), want) {
			t.Errorf("%q: %v, %s; want %q", args, err, out, want)
		}
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
			mark := testkit.Value(s.Mark())(t)
			testkit.Must(t, os.WriteFile(path, []byte(tc.before+tc.after), 0o600))
			if entries, err := s.AuditEntriesSince(t.Context(), mark); err != nil || len(entries) != tc.entries {
				t.Errorf("%d entries, want %d: %v", len(entries), tc.entries, err)
			}
		})
	}
}

func TestStopLeavesNothing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s := testkit.Value(vaulttest.Start(t.Context(), vaulttest.Options{TLS: true, Progress: os.Stderr}))(t)
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
