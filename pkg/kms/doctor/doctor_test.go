package doctor_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/kms/doctor"
	"github.com/mayfly-csi/mayfly/pkg/kms/report"
	"github.com/mayfly-csi/mayfly/test/kmsrig"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

var vault *vaulttest.Server

func TestMain(m *testing.M) { os.Exit(kmsrig.Main(m, &vault)) }

const rule = `
- resources: [%s]
  providers:
  - kms: {apiVersion: %s, name: mayfly, endpoint: "unix://%s"%s}
  - identity: {}
`

func file(rules ...string) string {
	return "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:" + strings.Join(rules, "")
}

// mistake is a wrong setting, and the finding about it.
type mistake struct {
	change func(*kmsrig.Rig)
	// args are added to the settings, file is the EncryptionConfiguration; of a
	// good one it is empty. SOCKET is replaced in both.
	args []string
	file string
	// want is in the detail, and do in the remedy, of a check of this state.
	state    report.State
	want, do string
}

func config(path string) func(*kmsrig.Rig) {
	return func(r *kmsrig.Rig) {
		r.Write("transit/keys/"+r.Key+"/config", map[string]any{path: true})
	}
}

func policy(change func(string) string) func(*kmsrig.Rig) {
	return func(r *kmsrig.Rig) { r.SetPolicy(change(kmsrig.LeastPolicy(r.Key))) }
}

func mistakes() map[string]mistake {
	good := fmt.Sprintf(rule, "secrets", "v2", "SOCKET", "")
	return map[string]mistake{
		"create on encrypt": {change: policy(func(p string) string { return strings.Replace(p, `["update"]`, `["create", "update"]`, 1) }),
			state: report.Failed, want: "create is granted: where the key is gone, Vault makes a new one in silence", do: "take create out of the policy"},
		"no right to decrypt": {change: policy(func(p string) string { return p[:strings.Index(p, `path "transit/decrypt`)] }),
			state: report.Failed, want: "update is not granted", do: `capabilities = ["update"]`},
		"a right to rotate": {change: func(r *kmsrig.Rig) {
			r.SetPolicy(kmsrig.LeastPolicy(r.Key) + fmt.Sprintf(`path "transit/keys/%s/rotate" { capabilities = ["update"] }`, r.Key))
		}, state: report.Warning, want: "update is granted", do: "take update out"},
		"no login":              {args: []string{"--role-id=wrong"}, state: report.Failed, want: "logging in to Vault", do: "role"},
		"another key":           {args: []string{"--transit-key=absent"}, state: report.Failed, want: "absent", do: "absent"},
		"another mount":         {args: []string{"--transit-mount=elsewhere"}, state: report.Failed, want: "elsewhere", do: "elsewhere"},
		"no server":             {args: []string{"--vault-addr=http://127.0.0.1:1"}, state: report.Failed, want: "127.0.0.1:1", do: "Vault"},
		"deletable":             {change: config("deletion_allowed"), state: report.Failed, want: "can be deleted", do: "deletion_allowed=false"},
		"exportable":            {change: config("exportable"), state: report.Warning, want: "can take the key out of Vault", do: "exportable=false"},
		"backup in plain text":  {change: config("allow_plaintext_backup"), state: report.Warning, want: "backup/", do: "migrate to it"},
		"another cluster id":    {args: []string{"--cluster-id=other"}, state: report.Failed, want: "these settings make", do: "--cluster-id"},
		"no plugin":             {args: []string{"--listen=unix:///run/mayfly-absent/kms.sock"}, state: report.Failed, want: "there is no such socket", do: "start it, before the API server"},
		"no such file":          {file: "-", state: report.Failed, want: "no such file", do: "docs/kms.md"},
		"another socket":        {file: file(fmt.Sprintf(rule, "secrets", "v2", "/run/other.sock", "")), state: report.Failed, want: "there are unix:///run/other.sock", do: "endpoint: unix://"},
		"KMS v1":                {file: file(fmt.Sprintf(rule, "secrets", "v1", "SOCKET", "")), state: report.Failed, want: "KMS v1", do: "apiVersion: v2"},
		"cachesize":             {file: file(fmt.Sprintf(rule, "secrets", "v2", "SOCKET", ", cachesize: 10")), state: report.Failed, want: "cachesize is set", do: "take cachesize out"},
		"a short timeout":       {file: file(fmt.Sprintf(rule, "secrets", "v2", "SOCKET", ", timeout: 1s")), state: report.Failed, want: "waits for 1s", do: "raise timeout"},
		"identity first":        {file: file(strings.Replace(strings.Replace(good, "  - identity: {}\n", "", 1), "  providers:\n", "  providers:\n  - identity: {}\n", 1)), state: report.Failed, want: "written as plain text", do: "put identity last"},
		"another one first":     {file: file(strings.Replace(good, "  providers:\n", "  providers:\n  - aescbc: {keys: [{name: a, secret: the-static-key}]}\n", 1)), state: report.Failed, want: "aescbc is the first provider", do: "put this plugin first"},
		"static keys in a file": {file: file(good, "- resources: [pods]\n  providers: [{aescbc: {keys: [{name: a, secret: the-static-key}]}}]\n"), state: report.Failed, want: "static keys are in the file", do: "chmod 0600"},
		"secrets left out":      {file: file(fmt.Sprintf(rule, "configmaps", "v2", "SOCKET", "")), state: report.Failed, want: "no rule names secrets", do: "add secrets"},
		"secrets shadowed":      {file: file("\n- {resources: [secrets], providers: [{identity: {}}]}", good), state: report.Failed, want: "does not have this plugin", do: "put this plugin's rule before it"},
	}
}

// TestMistakes: each mistake has a finding that says what to do, and no other check fails.
func TestMistakes(t *testing.T) {
	for name, tc := range mistakes() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := diagnose(t, tc)
			if !slices.ContainsFunc(r.Checks, func(c report.Check) bool {
				return c.State == tc.state && strings.Contains(c.Detail, tc.want) && strings.Contains(c.Remedy, tc.do)
			}) {
				t.Errorf("%q (%q) is not in\n%s", tc.want, tc.do, text(t, r))
			}
			if r.Clean(false) != (tc.state == report.Warning) || r.Clean(true) {
				t.Errorf("clean: %v\n%s", r.Clean(false), text(t, r))
			}
		})
	}
}

func text(t *testing.T, r *report.Report) string {
	t.Helper()
	var b bytes.Buffer
	testkit.Must(t, r.Text(&b))
	return b.String()
}

// diagnose starts a plugin, makes the mistake and runs the doctor.
func diagnose(t *testing.T, m mistake) *report.Report {
	t.Helper()
	r := kmsrig.New(t, vault)
	p := r.Start()
	p.Ready()
	if m.change != nil {
		m.change(r)
	}
	socket := p.Config.Serve.Socket
	if m.file == "" {
		m.file = file(fmt.Sprintf(rule, "secrets", "v2", socket, ""))
	}
	path := r.WriteFile("encryption.yaml", strings.ReplaceAll(m.file, "SOCKET", socket))
	if m.file == "-" {
		path += ".absent"
	}
	if err := os.Chmod(path, 0o644); err != nil && m.file != "-" {
		t.Fatal(err)
	}
	args := r.Args(append([]string{"--listen=unix://" + socket}, m.args...)...)
	found := testkit.Value(doctor.Run(t.Context(), doctor.Options{Config: kmsrig.Config(t, args...), EncryptionConfig: path, Log: slog.New(slog.DiscardHandler)}))(t)
	said := text(t, found)
	for _, secret := range []string{"the-static-key", r.RoleID[9:], vault.RootToken} {
		testkit.Lacks(t, said, secret)
	}
	return found
}

func TestClean(t *testing.T) {
	r := diagnose(t, mistake{})
	said := text(t, r)
	testkit.Has(t, said, "✓ login at Vault: approle at auth/approle", "✓ policy: read on keys/", "✓ key: ", "✓ round trip through Vault", "✓ plugin at its socket: healthy", "✓ round trip through the plugin", "provider: mayfly encrypts secrets")
	if !r.Clean(true) {
		t.Error(said)
	}
}

// TestRotated: a plugin that has not noticed a rotation yet is a warning.
func TestRotated(t *testing.T) {
	r := kmsrig.New(t, vault)
	p := r.Start("--poll-interval=10m")
	p.Ready()
	r.Rotate()
	args := r.Args("--listen=unix://" + p.Config.Serve.Socket)
	found, err := doctor.Run(t.Context(), doctor.Options{Config: kmsrig.Config(t, args...), Log: slog.New(slog.DiscardHandler)})
	if err != nil || !found.Clean(false) || !strings.Contains(text(t, found), "it announces version 1 of the key, and the latest is 2") {
		t.Errorf("%v\n%s", err, text(t, found))
	}
}
