// Package crash kills the driver, again and again and at any instant, and checks its volumes as
// pods see them.
package crash

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/test/issuer"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/postgres"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/toolcache"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// world is a node whose driver is a process of its own, so that it can be killed, a Vault, and a
// database in which Vault makes users.
type world struct {
	t        *testing.T
	dir      string
	binary   string
	role     string // of the database
	postgres *postgres.Server
	vault    *vaulttest.Server
	began    vaulttest.Mark // after the set-up
	issuer   *issuer.Issuer
	rotated  sync.Map // time.Time by generation
	cmd      *exec.Cmd
	log      *os.File
	vaultLog *os.File
	*kubelet.Kubelet
}

func newWorld(t *testing.T, role string) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts tmpfs")
	}
	dir, err := os.MkdirTemp("", "crash")
	testkit.Must(t, err)
	w := &world{t: t, dir: dir, role: role}
	t.Cleanup(w.cleanUp)
	w.postgres = postgres.New(t)
	w.binary = build(t, dir)
	w.vaultLog, err = os.Create(filepath.Join(dir, "vault.log"))
	testkit.Must(t, err)
	w.vault = vaulttest.New(t, vaulttest.Options{Logs: w.vaultLog})
	w.issuer, err = issuer.Start(t.Context(), issuer.Options{})
	testkit.Must(t, err)
	t.Cleanup(func() { _ = w.issuer.Close() })
	w.log, err = os.Create(filepath.Join(dir, "driver.log"))
	testkit.Must(t, err)
	w.setUpVault()
	w.writeClass()
	w.began, err = w.vault.Mark()
	testkit.Must(t, err)
	w.Kubelet, err = kubelet.Dial(filepath.Join(dir, "kubelet"), w.socket())
	testkit.Must(t, err)
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func build(t *testing.T, dir string) string {
	t.Helper()
	root, err := toolcache.ModuleRoot()
	testkit.Must(t, err)
	binary := filepath.Join(dir, "mayfly-node")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/mayfly-node")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the driver: %v\n%s", err, out)
	}
	return binary
}

const (
	// tokenTTL is the documented window: a login without a record because of a kill expires after
	// it.
	tokenTTL = "12s"
	// The roles of the database: one whose leases are renewed and expire within a run, and one
	// whose leases are not renewed.
	shortRole, shortTTL, shortMaxTTL = "short", "10s", "15s"
	longRole, longTTL, longMaxTTL    = "long", "1h", "24h"
	// Certificates live as long as the leases of such a role can.
	shortLife, longLife = shortMaxTTL, longTTL
	// leaseShortest is less than the time before a short lease is due, and
	// leaseGrace half of the time that is left then.
	leaseShortest = 5 * time.Second
	leaseGrace    = 1500 * time.Millisecond
)

// credentials is where Vault makes the database's users.
func (w *world) credentials() string { return "database/creds/" + w.role }

func (w *world) setUpVault() {
	ctx, v, t := w.t.Context(), w.vault, w.t
	testkit.Must(t, v.EnableKubernetesAuth(ctx, "kubernetes", w.issuer))
	testkit.Must(t, v.EnableKV(ctx, "secret", 2))
	testkit.Must(t, v.EnablePKI(ctx, "pki", "any"))
	life := longLife
	if w.role == shortRole {
		life = shortLife
	}
	testkit.Must(t, v.Write(ctx, "pki/roles/web", map[string]any{"allow_any_name": true, "ttl": life, "generate_lease": true, "key_type": "ec", "key_bits": 256}))
	w.postgres.Enable(t, v)
	w.postgres.Role(t, v, shortRole, shortTTL, shortMaxTTL)
	w.postgres.Role(t, v, longRole, longTTL, longMaxTTL)
	testkit.Must(t, v.Policy(ctx, "web", `path "secret/data/*" { capabilities = ["read"] }
path "database/creds/*" { capabilities = ["read"] }
path "pki/issue/web" { capabilities = ["update"] }`))
	testkit.Must(t, v.Role(ctx, "kubernetes", "web", map[string]any{
		"bound_service_account_names": "web", "bound_service_account_namespaces": "shop", "audience": "vault",
		"token_policies": "web", "token_ttl": tokenTTL,
	}))
	testkit.Must(t, w.rotate(0))
}

// rotate writes a new generation: both keys of one secret have its number. Every other one has an
// optional secret, and with it files at the top and in a directory of their own.
func (w *world) rotate(generation int) error {
	ctx := w.t.Context()
	if err := w.vault.PutKV2(ctx, "secret", "pair", map[string]any{"a": fmt.Sprint(generation), "b": fmt.Sprint(generation)}); err != nil {
		return err
	}
	if generation%2 == 1 {
		return w.vault.PutKV2(ctx, "secret", "sometimes", map[string]any{"v": fmt.Sprint(generation)})
	}
	_, err := w.vault.Client().Logical().DeleteWithContext(ctx, "secret/metadata/sometimes")
	return err
}

func (w *world) writeClass() {
	classes := filepath.Join(w.dir, "classes")
	testkit.Must(w.t, os.Mkdir(classes, 0o700))
	testkit.Must(w.t, os.WriteFile(filepath.Join(classes, "class.yaml"), fmt.Appendf(nil, `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: secrets, namespace: shop}
spec:
  provider: vault
  parameters:
    roleName: web
    refreshInterval: 1s
    objects: |
      - {objectName: a, secretPath: secret/data/pair, secretKey: a}
      - {objectName: b, secretPath: secret/data/pair, secretKey: b}
      - {objectName: tls/crt, secretPath: pki/issue/web, method: POST, secretKey: certificate, secretArgs: {common_name: web.shop}}
      - {objectName: tls/key, secretPath: pki/issue/web, method: POST, secretKey: private_key, secretArgs: {common_name: web.shop}}
      - {objectName: db/user, secretPath: %[1]s, secretKey: username}
      - {objectName: db/password, secretPath: %[1]s, secretKey: password}
      - {objectName: sometimes, secretPath: secret/data/sometimes, secretKey: v, optional: true}
      - {objectName: more/sometimes, secretPath: secret/data/sometimes, secretKey: v, optional: true}
`, w.credentials()), 0o600))
}

func (w *world) socket() string { return filepath.Join(w.dir, "csi.sock") }

// start runs the driver, and returns once its socket answers.
func (w *world) start() {
	w.t.Helper()
	w.launch()
	deadline := time.Now().Add(20 * time.Second)
	for {
		conn, err := net.Dial("unix", w.socket())
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the driver does not come up: %v\n%s", err, w.tail())
		}
		time.Sleep(time.Millisecond)
	}
}

func (w *world) launch() {
	w.cmd = exec.Command(w.binary, "--endpoint=unix://"+w.socket(), "--class-dir="+filepath.Join(w.dir, "classes"), "--nodeid=n",
		"--vault-addr="+w.vault.Address, "--health-addr=", "--metrics-addr=", "--shutdown-grace=5s", "--log-level="+logLevel())
	w.cmd.Stdout, w.cmd.Stderr = w.log, w.log
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	testkit.Must(w.t, w.cmd.Start())
}

func (w *world) kill() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
	w.cmd = nil
}

func (w *world) tail() string {
	b, _ := os.ReadFile(w.log.Name())
	lines := strings.Split(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-200):], "\n")
}

func (w *world) cleanUp() {
	if w.cmd != nil {
		w.kill()
	}
	for _, m := range w.mounts() {
		for unix.Unmount(m, unix.MNT_DETACH) == nil {
		}
	}
	if w.t.Failed() && w.log != nil {
		w.t.Logf("the driver's log ends:\n%s", w.tail())
	}
	_ = os.RemoveAll(w.dir)
}

// mounts are those below the world's directory, the state's included.
func (w *world) mounts() []string {
	data, err := os.ReadFile("/proc/self/mountinfo")
	testkit.Must(w.t, err)
	var found []string
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		if f := strings.Fields(string(line)); len(f) > 4 && strings.HasPrefix(f[4], w.dir+"/") {
			found = append(found, f[4])
		}
	}
	return found
}

// liveTokens counts the valid Vault tokens of pods' logins, and liveLeases the certificates and
// database users with a lease.
func (w *world) liveTokens() int {
	n := 0
	for _, accessor := range w.list("auth/token/accessors") {
		s, err := w.vault.Client().Auth().Token().LookupAccessor(accessor)
		if err == nil && s != nil && strings.HasPrefix(fmt.Sprint(s.Data["path"]), "auth/kubernetes/") {
			n++
		}
	}
	return n
}

func (w *world) liveLeases() int {
	return len(w.list("sys/leases/lookup/pki/issue/web/")) + len(w.list("sys/leases/lookup/"+w.credentials()+"/"))
}

// halfLeases counts the leases that Vault reports as recorded by halves, and no longer revokes.
func (w *world) halfLeases() int {
	b, err := os.ReadFile(w.vaultLog.Name())
	testkit.Must(w.t, err)
	return bytes.Count(b, []byte("failed to register lease"))
}

// liveUsers counts the users in the database that can log in.
func (w *world) liveUsers() int {
	return w.count("rolname LIKE 'v-%' AND (rolvaliduntil IS NULL OR rolvaliduntil > now())")
}

// exist counts those of the users that are in the database, in any state.
func (w *world) exist(users map[string]string) int {
	names := slices.Collect(maps.Keys(users))
	return w.count("rolname IN ('" + strings.Join(names, "','") + "')")
}

func (w *world) count(where string) int {
	n, err := strconv.Atoi(w.postgres.Query(w.t, "SELECT count(*) FROM pg_roles WHERE "+where))
	testkit.Must(w.t, err)
	return n
}

func (w *world) list(path string) []string {
	s, err := w.vault.Client().Logical().ListWithContext(w.t.Context(), path)
	testkit.Must(w.t, err)
	if s == nil {
		return nil
	}
	keys, _ := s.Data["keys"].([]any)
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = fmt.Sprint(k)
	}
	return out
}

// logLevel is the driver's; MAYFLY_CRASH_LOG=debug shows every call.
func logLevel() string {
	if level := os.Getenv("MAYFLY_CRASH_LOG"); level != "" {
		return level
	}
	return "info"
}
