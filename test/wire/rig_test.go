// Package wire tests the whole driver through its socket: a real Vault, real
// tmpfs mounts, and a kubelet that calls as the real one does.
package wire

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/audit"
	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/pkg/volume/limits"
	"github.com/mayfly-csi/mayfly/test/audittest"
	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// marker is in every secret. No output may contain it.
const marker = "s3cr3t-marker"

// rig is a node with a driver, and a Vault whose role web lets the service account shop/web read
// secret/* and kv1/*.
type rig struct {
	*kubelet.Kubelet
	t        *testing.T
	vault    *vaulttest.Server
	issuer   *issuer.Issuer
	dir      string
	classDir string
	health   string
	log      *testkit.Log
	refresh  chan os.Signal
	change   func(*node.Config)
	stop     func()
}

func newRig(t *testing.T, change func(*node.Config)) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts tmpfs")
	}
	dir, err := os.MkdirTemp("", "wire") // short, for the socket's path
	testkit.Must(t, err)
	r := &rig{t: t, dir: dir, classDir: filepath.Join(dir, "classes"), log: &testkit.Log{}, refresh: make(chan os.Signal, 1), change: change}
	t.Cleanup(r.cleanUp)
	testkit.Must(t, os.Mkdir(r.classDir, 0o700))
	r.vault = vaulttest.New(t, vaulttest.Options{})
	r.issuer = testkit.Value(issuer.Start(t.Context(), issuer.Options{}))(t)
	t.Cleanup(func() { _ = r.issuer.Close() })
	r.setUpVault()
	r.start()
	return r
}

func (r *rig) setUpVault() {
	ctx, v := r.t.Context(), r.vault
	testkit.Must(r.t, v.EnableKubernetesAuth(ctx, "kubernetes", r.issuer))
	testkit.Must(r.t, v.EnableKV(ctx, "secret", 2))
	testkit.Must(r.t, v.EnableKV(ctx, "kv1", 1))
	testkit.Must(r.t, v.Policy(ctx, "web", `path "secret/data/*" { capabilities = ["read"] }
path "kv1/*" { capabilities = ["read"] }`))
	testkit.Must(r.t, v.Bind(ctx, "web", "web", "shop", "web", map[string]any{"token_ttl": "10m"}))
	r.put("db", "one")
}

func (r *rig) put(path, value string) {
	r.t.Helper()
	testkit.Must(r.t, r.vault.PutKV2(r.t.Context(), "secret", path, map[string]any{"password": marker + "-" + value}))
}

// start runs the driver with the state of an earlier one.
func (r *rig) start() {
	r.t.Helper()
	socket := filepath.Join(r.dir, "csi.sock")
	r.health = testkit.FreeAddress(r.t)
	c := node.Config{
		Version: "test", Logger: slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Driver: "secrets-store.csi.k8s.io", NodeID: "node-1", Endpoint: "unix://" + socket, RegistryDir: r.dir, ClassDir: r.classDir,
		Limits: limits.Limits{Interval: time.Hour, SizeLimit: 1 << 20, InodeLimit: 64}, RefreshWorkers: 4, RefreshTimeout: 20 * time.Second,
		HealthAddr: r.health, MetricsAddr: r.health, Grace: 10 * time.Second, RefreshNow: r.refresh,
		AuditLog: r.auditLog(), AuditLevel: audit.All,
		Vault: vault.Config{Name: "vault", DefaultAddress: r.vault.Address, Settings: endpoint.Settings{RequestTimeout: 5 * time.Second, MaxRetries: -1}},
	}
	c.OpenBao = c.Vault
	c.OpenBao.Name = "openbao"
	if r.change != nil {
		r.change(&c)
	}
	n := testkit.Value(node.New(c))(r.t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("the driver failed: %v", err)
		}
	})
	r.t.Cleanup(r.stop)
	r.Kubelet = testkit.Value(kubelet.Dial(filepath.Join(r.dir, "kubelet"), socket))(r.t)
	k := r.Kubelet
	r.t.Cleanup(func() { _ = k.Close() })
	r.eventually("the driver serves", func() bool { return r.Ready() == nil })
}

// Ready asks for the plugin's info.
func (r *rig) Ready() error {
	_, err := kubelet.Register(r.t.Context(), filepath.Join(r.dir, "secrets-store.csi.k8s.io-reg.sock"), nil)
	return err
}

func (r *rig) cleanUp() {
	for _, pattern := range []string{"kubelet/pods/*/volumes/*/*/mount", "state"} {
		mounts, _ := filepath.Glob(filepath.Join(r.dir, pattern))
		for _, m := range mounts {
			for unix.Unmount(m, unix.MNT_DETACH) == nil {
			}
		}
	}
	if lines, err := os.ReadFile(r.auditLog()); err == nil {
		audittest.Check(r.t, lines)
		if chains := audittest.Chains(r.t, lines); len(chains) > 1 {
			r.t.Errorf("the audit trail has %d chains, want one over all restarts", len(chains))
		}
		r.noSecretIn("the audit trail", string(lines))
	}
	_ = os.RemoveAll(r.dir)
	r.noSecretIn("the log", r.log.String())
	if r.t.Failed() {
		r.t.Logf("the driver's log:\n%s", r.log)
	}
}

func (r *rig) auditLog() string { return filepath.Join(r.dir, "audit.log") }

func (r *rig) noSecretIn(what, text string) {
	r.t.Helper()
	if strings.Contains(text, marker) || strings.Contains(text, "eyJ") || strings.Contains(text, "hvs.") {
		r.t.Errorf("%s holds a secret or a token:\n%s", what, text)
	}
}

// class writes a class that reads secret/db, with further parameters.
func (r *rig) class(name string, parameters ...string) {
	r.t.Helper()
	r.manifest(name, "- {objectName: password, secretPath: secret/data/db, secretKey: password}", parameters...)
}

func (r *rig) manifest(name, objects string, parameters ...string) {
	r.t.Helper()
	r.writeClass(name, "vault", objects, append([]string{"roleName: web"}, parameters...))
}

func (r *rig) writeClass(name, provider, objects string, parameters []string) {
	r.t.Helper()
	text := fmt.Sprintf(`apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: %s, namespace: shop}
spec:
  provider: %s
  parameters:
    objects: |
      %s
`, name, provider, strings.ReplaceAll(objects, "\n", "\n      "))
	for _, p := range parameters {
		text += "    " + p + "\n"
	}
	r.replace(filepath.Join(r.classDir, name+".yaml"), text)
}

// replace replaces a file atomically.
func (r *rig) replace(file, text string) {
	r.t.Helper()
	testkit.Must(r.t, os.WriteFile(file+".new", []byte(text), 0o600))
	testkit.Must(r.t, os.Rename(file+".new", file))
}

// pod is a pod of shop with its tokens.
func (r *rig) pod(name, account, className string) kubelet.Pod {
	ref := issuer.PodRef{Namespace: "shop", Pod: name, PodUID: "uid-" + name, ServiceAccount: account}
	return kubelet.Pod{
		Namespace: "shop", Name: name, UID: "uid-" + name, ServiceAccount: account, Class: className,
		Tokens: r.issuer.CSITokens(ref, "vault"),
	}
}

func (r *rig) publish(p kubelet.Pod) {
	r.t.Helper()
	testkit.Must(r.t, r.Publish(r.t.Context(), p))
}

// refuse publishes a volume that the driver must refuse, and returns the error.
func (r *rig) refuse(p kubelet.Pod) error {
	r.t.Helper()
	err := r.Publish(r.t.Context(), p)
	r.checkRefused(p, err)
	return err
}

// checkRefused checks the error of a publish, and that nothing of the volume is left.
func (r *rig) checkRefused(p kubelet.Pod, err error) {
	r.t.Helper()
	if err == nil {
		r.t.Fatal("the publish succeeded")
	}
	if strings.Contains(err.Error(), marker) || strings.Contains(err.Error(), "eyJ") {
		r.t.Errorf("the error holds a secret or a token: %v", err)
	}
	if _, serr := os.Lstat(r.Target(p)); !os.IsNotExist(serr) {
		r.t.Errorf("the target path is left: %v", serr)
	}
}

func (r *rig) file(p kubelet.Pod, name string) string {
	b, err := os.ReadFile(filepath.Join(r.Target(p), name))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (r *rig) wantFile(p kubelet.Pod, want string) {
	r.t.Helper()
	if got := r.file(p, "password"); got != marker+"-"+want {
		r.t.Errorf("the file holds %q, want %q", got, marker+"-"+want)
	}
}

func (r *rig) get(path string) (int, string) {
	r.t.Helper()
	code, body, err := testkit.Get(r.t.Context(), "http://"+r.health+path)
	testkit.Must(r.t, err)
	return code, string(body)
}

func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	testkit.Eventually(r.t, what, ok)
}
