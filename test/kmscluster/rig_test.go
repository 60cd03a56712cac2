//go:build e2e

package kmscluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/kms/probe"
	"github.com/mayfly-csi/mayfly/pkg/kms/report"
	"github.com/mayfly-csi/mayfly/test/controlplane"
	"github.com/mayfly-csi/mayfly/test/kmsrig"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

const (
	keyName      = "kubernetes"
	providerName = "mayfly"
	waitTimeout  = 90 * time.Second
)

// rig is a control plane, a Vault that deploy/kms/vault-setup.sh sets up, and the plugins.
type rig struct {
	*controlplane.Cluster
	t       *testing.T
	vault   *vaulttest.Server
	roleID  string
	plugins int
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, vault: vaulttest.New(t, vaulttest.Options{}), Cluster: controlplane.New(t)}
	return r
}

// setUp runs deploy/kms/vault-setup.sh as an operator does.
func (r *rig) setUp(env ...string) {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "../../deploy/kms/vault-setup.sh")
	cmd.Env = append(os.Environ(), append([]string{"VAULT=" + vaultCLI, "VAULT_ADDR=" + r.vault.Address, "VAULT_TOKEN=" + r.vault.RootToken}, env...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("vault-setup.sh: %v\n%s", err, &said)
	}
	r.roleID = strings.TrimSpace(string(out))
}

// writeAsRoot writes to a path of Vault with the root token.
func (r *rig) writeAsRoot(path string, data map[string]any) map[string]any {
	r.t.Helper()
	secret, err := r.vault.Client().Logical().WriteWithContext(r.t.Context(), path, data)
	if err != nil {
		r.t.Fatalf("writing %s: %v", path, err)
	}
	if secret == nil {
		return nil
	}
	return secret.Data
}

// secretID makes an AppRole secret id, and writes it to a file.
func (r *rig) secretID(file string) string {
	r.t.Helper()
	id, _ := r.writeAsRoot("auth/approle/role/mayfly-kms/secret-id", map[string]any{})["secret_id"].(string)
	testkit.Must(r.t, os.WriteFile(file+".new", []byte(id+"\n"), 0o600))
	testkit.Must(r.t, os.Rename(file+".new", file))
	return id
}

// plugin is one mayfly-kms serve.
type plugin struct {
	*controlplane.Process
	link       *kmsrig.Gate
	rig        *rig
	socket     string
	config     string
	secretFile string
	secretID   string
	metrics    string
}

// newPlugin starts a plugin with its own connection to Vault. settings are lines of its file.
func (r *rig) newPlugin(settings ...string) *plugin {
	r.t.Helper()
	r.plugins++
	dir := r.Path(fmt.Sprintf("p%d", r.plugins))
	r.must(os.Mkdir(dir, 0o700))
	p := &plugin{rig: r, link: kmsrig.NewGate(r.t, r.vault.Address), socket: filepath.Join(dir, "run", "kms.sock"), config: filepath.Join(dir, "config.yaml"), secretFile: filepath.Join(dir, "secret-id")}
	p.secretID = r.secretID(p.secretFile)
	p.metrics = fmt.Sprintf("%s:%d", r.Address, 9000+r.plugins)
	lines := append([]string{
		"vaultAddr: " + p.link.URL("http"), "authMethod: approle", "roleId: " + r.roleID, "secretIdFile: " + p.secretFile,
		"transitKey: " + keyName, "clusterId: test-cluster", "listen: unix://" + p.socket,
		"healthAddr: " + p.metrics, "metricsAddr: " + p.metrics, "auditLog: " + filepath.Join(dir, "audit.log"),
	}, settings...)
	r.must(os.WriteFile(p.config, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	p.Process = controlplane.NewProcess(r.t, fmt.Sprintf("mayfly-kms %d", r.plugins), filepath.Join(dir, "log"), func() *exec.Cmd {
		return exec.Command(program, "serve", "--config="+p.config)
	})
	p.Start()
	return p
}

func (r *rig) must(err error) {
	r.t.Helper()
	testkit.Must(r.t, err)
}

// status asks the plugin as the API server does.
func (p *plugin) status(ctx context.Context) (probe.Status, error) {
	client, err := probe.Dial("unix://" + p.socket)
	if err != nil {
		return probe.Status{}, err
	}
	defer func() { _ = client.Close() }()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return client.Status(ctx)
}

// healthy waits until the plugin is healthy with a version of the key, and returns the key id.
func (p *plugin) healthy(version int) string {
	p.rig.t.Helper()
	var id string
	controlplane.Await(p.rig.t, waitTimeout, fmt.Sprintf("%s to announce version %d", p.Name, version), func(ctx context.Context) error {
		s, err := p.status(ctx)
		if err != nil {
			return err
		}
		if s.Health != "ok" || !strings.HasPrefix(s.KeyID, fmt.Sprintf("mayfly-1-v%d-", version)) {
			return fmt.Errorf("healthz %q, key id %s", s.Health, s.KeyID)
		}
		id = s.KeyID
		return nil
	})
	return id
}

func (p *plugin) encryption() string {
	return fmt.Sprintf(`apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - kms: {apiVersion: v2, name: %s, endpoint: "unix://%s"}
  - identity: {}
`, providerName, p.socket)
}

// answer is the output and exit code of a tool.
type answer struct {
	*report.Report
	code           int
	stdout, stderr string
}

// tool runs a command of mayfly-kms with JSON output.
func (r *rig) tool(command string, args ...string) answer {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), program, append([]string{command, "--output=json"}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	a := answer{Report: report.New(), stdout: stdout.String(), stderr: stderr.String()}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		a.code, err = exit.ExitCode(), nil
	}
	testkit.Must(r.t, err)
	if a.code != 2 {
		if err := json.Unmarshal(stdout.Bytes(), a.Report); err != nil {
			r.t.Fatalf("%v: %v\n%s%s", args, err, &stdout, &stderr)
		}
	}
	return a
}

func (a answer) check(t *testing.T, code int, words ...string) answer {
	t.Helper()
	if a.code != code {
		t.Fatalf("exit code %d, want %d\n%s%s", a.code, code, a.stdout, a.stderr)
	}
	testkit.Has(t, a.stdout+a.stderr, words...)
	return a
}

// clusterFlags are a tool's flags for the plugin, API servers and etcd.
func (r *rig) clusterFlags(p *plugin, servers ...*controlplane.APIServer) []string {
	urls := make([]string, len(servers))
	for i, s := range servers {
		urls[i] = s.URL
	}
	return append(r.EtcdFlags(), "--config="+p.config, "--kubeconfig="+servers[0].Kubeconfig, "--api-servers="+strings.Join(urls, ","))
}

// inEtcd returns the keys of etcd's values that contain a text.
func (r *rig) inEtcd(text string) []string {
	r.t.Helper()
	var keys []string
	for key, value := range r.Raw("/registry/") {
		if bytes.Contains(value, []byte(text)) {
			keys = append(keys, key)
		}
	}
	return keys
}

// checkReadable reads Secrets by the API server and checks their text.
func checkReadable(t *testing.T, s *controlplane.APIServer, secrets map[string]string) {
	t.Helper()
	for name, want := range secrets {
		if got, err := s.ReadSecret(t.Context(), name); err != nil || got != want {
			t.Fatalf("Secret %s reads %q, %v", name, got, err)
		}
	}
}

// program and vaultCLI are the paths of the programs mayfly-kms and vault.
var program, vaultCLI string

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests need root: each API server needs its own host name")
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "mayfly-kms-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program, err = toolcache.Program(context.Background(), os.Stderr, dir, "./cmd/mayfly-kms")
	if err == nil {
		vaultCLI, err = toolcache.Get(context.Background(), os.Stderr, "vault")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
