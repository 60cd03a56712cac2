// Package crash kills the driver many times at random instants, and checks its volumes as pods see them.
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

// environment is a node whose driver is a process that can be killed, a Vault, and a database in which
// Vault makes users.
type environment struct {
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

func newEnvironment(t *testing.T, role string) *environment {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts tmpfs")
	}
	dir := testkit.Value(os.MkdirTemp("", "crash"))(t)
	env := &environment{t: t, dir: dir, role: role}
	t.Cleanup(env.cleanUp)
	env.postgres = postgres.New(t)
	env.binary = testkit.Value(toolcache.Program(t.Context(), os.Stderr, dir, "./cmd/mayfly-node"))(t)
	env.vaultLog = testkit.Value(os.Create(filepath.Join(dir, "vault.log")))(t)
	env.vault = vaulttest.New(t, vaulttest.Options{Logs: env.vaultLog})
	env.issuer = testkit.Value(issuer.Start(t.Context(), issuer.Options{}))(t)
	t.Cleanup(func() { _ = env.issuer.Close() })
	env.log = testkit.Value(os.Create(filepath.Join(dir, "driver.log")))(t)
	env.setUpVault()
	env.writeClass()
	env.began = testkit.Value(env.vault.Mark())(t)
	env.Kubelet = testkit.Value(kubelet.Dial(filepath.Join(dir, "kubelet"), env.socket()))(t)
	t.Cleanup(func() { _ = env.Close() })
	return env
}

const (
	// tokenTTL is the TTL of Vault tokens: a login that a kill left without a record expires after it.
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

// credentials is the Vault path that makes database users.
func (env *environment) credentials() string { return "database/creds/" + env.role }

func (env *environment) setUpVault() {
	ctx, v, t := env.t.Context(), env.vault, env.t
	testkit.Must(t, v.EnableKubernetesAuth(ctx, "kubernetes", env.issuer))
	testkit.Must(t, v.EnableKV(ctx, "secret", 2))
	testkit.Must(t, v.EnablePKI(ctx, "pki", "any"))
	life := longLife
	if env.role == shortRole {
		life = shortLife
	}
	testkit.Must(t, v.Write(ctx, "pki/roles/web", map[string]any{"allow_any_name": true, "ttl": life, "generate_lease": true, "key_type": "ec", "key_bits": 256}))
	env.postgres.Enable(t, v)
	env.postgres.Role(t, v, shortRole, shortTTL, shortMaxTTL)
	env.postgres.Role(t, v, longRole, longTTL, longMaxTTL)
	testkit.Must(t, v.Policy(ctx, "web", `path "secret/data/*" { capabilities = ["read"] }
path "database/creds/*" { capabilities = ["read"] }
path "pki/issue/web" { capabilities = ["update"] }`))
	testkit.Must(t, v.Bind(ctx, "web", "web", "shop", "web", map[string]any{"token_ttl": tokenTTL}))
	testkit.Must(t, env.rotate(0))
}

// rotate writes a new generation: both keys of one secret have its number. Every other one has an
// optional secret, and with it files at the top and in a directory of their own.
func (env *environment) rotate(generation int) error {
	ctx := env.t.Context()
	if err := env.vault.PutKV2(ctx, "secret", "pair", map[string]any{"a": fmt.Sprint(generation), "b": fmt.Sprint(generation)}); err != nil {
		return err
	}
	if generation%2 == 1 {
		return env.vault.PutKV2(ctx, "secret", "sometimes", map[string]any{"v": fmt.Sprint(generation)})
	}
	_, err := env.vault.Client().Logical().DeleteWithContext(ctx, "secret/metadata/sometimes")
	return err
}

func (env *environment) writeClass() {
	classes := filepath.Join(env.dir, "classes")
	testkit.Must(env.t, os.Mkdir(classes, 0o700))
	testkit.Must(env.t, os.WriteFile(filepath.Join(classes, "class.yaml"), fmt.Appendf(nil, `apiVersion: secrets-store.csi.x-k8s.io/v1
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
`, env.credentials()), 0o600))
}

func (env *environment) socket() string { return filepath.Join(env.dir, "csi.sock") }

// start runs the driver, and returns once its socket answers.
func (env *environment) start() {
	env.t.Helper()
	env.launch()
	testkit.Eventually(env.t, "the driver serves", func() bool {
		conn, err := net.Dial("unix", env.socket())
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

func (env *environment) launch() {
	env.cmd = exec.Command(env.binary, "--endpoint=unix://"+env.socket(), "--class-dir="+filepath.Join(env.dir, "classes"), "--nodeid=n",
		"--vault-addr="+env.vault.Address, "--health-addr=", "--metrics-addr=", "--shutdown-grace=5s", "--log-level="+logLevel())
	env.cmd.Stdout, env.cmd.Stderr = env.log, env.log
	env.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	testkit.Must(env.t, env.cmd.Start())
}

func (env *environment) kill() {
	_ = env.cmd.Process.Kill()
	_ = env.cmd.Wait()
	env.cmd = nil
}

func (env *environment) tail() string {
	b, _ := os.ReadFile(env.log.Name())
	lines := strings.Split(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-200):], "\n")
}

func (env *environment) cleanUp() {
	if env.cmd != nil {
		env.kill()
	}
	for _, m := range env.mounts() {
		for unix.Unmount(m, unix.MNT_DETACH) == nil {
		}
	}
	if env.t.Failed() && env.log != nil {
		env.t.Logf("the driver's log ends:\n%s", env.tail())
	}
	_ = os.RemoveAll(env.dir)
}

// mounts returns the mount points below dir, with that of the state.
func (env *environment) mounts() []string {
	data := testkit.Value(os.ReadFile("/proc/self/mountinfo"))(env.t)
	var found []string
	for line := range bytes.SplitSeq(data, []byte("\n")) {
		if f := strings.Fields(string(line)); len(f) > 4 && strings.HasPrefix(f[4], env.dir+"/") {
			found = append(found, f[4])
		}
	}
	return found
}

// liveTokens counts the valid Vault tokens of pods' logins, and liveLeases the certificates and
// database users with a lease.
func (env *environment) liveTokens() int {
	n := 0
	for _, accessor := range env.list("auth/token/accessors") {
		s, err := env.vault.Client().Auth().Token().LookupAccessor(accessor)
		if err == nil && s != nil && strings.HasPrefix(fmt.Sprint(s.Data["path"]), "auth/kubernetes/") {
			n++
		}
	}
	return n
}

func (env *environment) liveLeases() int {
	return len(env.list("sys/leases/lookup/pki/issue/web/")) + len(env.list("sys/leases/lookup/"+env.credentials()+"/"))
}

// halfLeases counts the leases of which Vault recorded only a half, and which it does not revoke.
func (env *environment) halfLeases() int {
	b := testkit.Value(os.ReadFile(env.vaultLog.Name()))(env.t)
	return bytes.Count(b, []byte("failed to register lease"))
}

// liveUsers counts the users in the database that can log in.
func (env *environment) liveUsers() int {
	return env.count("rolname LIKE 'v-%' AND (rolvaliduntil IS NULL OR rolvaliduntil > now())")
}

// exist counts those of the users that are in the database, in any state.
func (env *environment) exist(users map[string]string) int {
	names := slices.Collect(maps.Keys(users))
	return env.count("rolname IN ('" + strings.Join(names, "','") + "')")
}

func (env *environment) count(where string) int {
	return testkit.Value(strconv.Atoi(env.postgres.Query(env.t, "SELECT count(*) FROM pg_roles WHERE "+where)))(env.t)
}

func (env *environment) list(path string) []string {
	s := testkit.Value(env.vault.Client().Logical().ListWithContext(env.t.Context(), path))(env.t)
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
