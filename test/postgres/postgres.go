// Package postgres starts a real PostgreSQL server for a test, with a Vault's
// database engine on it.
package postgres

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

const (
	startTimeout = 30 * time.Second
	pollInterval = 20 * time.Millisecond
	// adminPassword is the superuser's password, with which Vault logs in.
	adminPassword = "v"
	// authFailed is psql's error for a refused login, as opposed to a lost connection.
	authFailed = "password authentication failed"
)

// Server is a running server on loopback. It requires passwords, and so checks their expiry, except
// from users who can reach its directory.
type Server struct {
	bin, dir string
	port     int
}

// New starts a server for the test, which stops it. It skips the test if PostgreSQL is not
// installed, or cannot run.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{bin: installed(t), dir: scratch(t), port: freePort(t)}
	out, err := s.command("initdb", "-D", s.dir+"/data", "-U", "postgres",
		"--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync").CombinedOutput()
	if err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	server := s.command("postgres", "-D", s.dir+"/data", "-k", s.dir, "-p", strconv.Itoa(s.port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off")
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	server.SysProcAttr.Pdeathsig = syscall.SIGKILL
	testkit.Must(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGINT)
		_ = server.Wait()
		if t.Failed() {
			t.Logf("PostgreSQL said:\n%s", &log)
		}
	})
	s.awaitServing(t)
	s.Query(t, "CREATE ROLE vault SUPERUSER LOGIN PASSWORD '"+adminPassword+"'")
	return s
}

func (s *Server) awaitServing(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(pollInterval) {
		out, err := s.admin("SELECT 1").CombinedOutput()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("PostgreSQL does not answer: %v\n%s", err, out)
		}
	}
}

// Enable mounts a Vault's database engine at database, with the server as its connection pg.
func (s *Server) Enable(t testing.TB, v *vaulttest.Server) {
	t.Helper()
	err := v.EnableDatabase(t.Context(), "database", "pg", map[string]any{
		"connection_url": fmt.Sprintf("postgresql://{{username}}:{{password}}@127.0.0.1:%d/postgres?sslmode=disable", s.port),
		"username":       "vault", "password": adminPassword, "allowed_roles": "*",
	})
	testkit.Must(t, err)
}

// Role makes a dynamic role of the engine. The database itself refuses its
// users after their lease.
func (s *Server) Role(t testing.TB, v *vaulttest.Server, name, ttl, maxTTL string) {
	t.Helper()
	err := v.Write(t.Context(), "database/roles/"+name, map[string]any{
		"db_name": "pg", "default_ttl": ttl, "max_ttl": maxTTL,
		"creation_statements": `CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`,
	})
	testkit.Must(t, err)
}

// Query runs SQL as the superuser, and returns psql's output.
func (s *Server) Query(t testing.TB, sql string) string {
	t.Helper()
	out, err := s.admin(sql).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", sql, err, out)
	}
	return strings.TrimSpace(string(out))
}

// LogsIn reports whether the database accepts a name and password together.
func (s *Server) LogsIn(t testing.TB, name, password string) bool {
	t.Helper()
	c := s.command("psql", "-h", "127.0.0.1", "-p", strconv.Itoa(s.port), "-U", name, "-w", "-d", "postgres", "-Atc", "SELECT 1")
	c.Env = append(os.Environ(), "PGPASSWORD="+password)
	out, err := c.CombinedOutput()
	if err != nil && !bytes.Contains(out, []byte(authFailed)) {
		t.Errorf("logging in to PostgreSQL: %v\n%s", err, out)
	}
	return err == nil
}

// Users counts the roles that Vault made.
func (s *Server) Users(t testing.TB) int {
	t.Helper()
	return testkit.Value(strconv.Atoi(s.Query(t, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'")))(t)
}

func (s *Server) admin(sql string) *exec.Cmd {
	return s.command("psql", "-h", s.dir, "-p", strconv.Itoa(s.port), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Atc", sql)
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(s.bin, name), args...)
	c.Dir = s.dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: credential()}
	return c
}

func freePort(t testing.TB) int {
	t.Helper()
	l := testkit.Value(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// installed finds the server's programs.
func installed(t testing.TB) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	for _, path := range append(found, "/usr/local/bin/postgres", "/usr/bin/postgres") {
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(real), "initdb")); err == nil {
			return filepath.Dir(real)
		}
	}
	t.Skip("PostgreSQL is not installed: on Debian, apt-get install postgresql")
	return ""
}

// scratch is short enough for a socket, and belongs to the user who runs the server.
func scratch(t testing.TB) string {
	t.Helper()
	dir := testkit.Value(os.MkdirTemp("", "pg"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := credential()
	if c == nil {
		return dir
	}
	if err := os.Chown(dir, int(c.Uid), int(c.Gid)); err != nil {
		t.Skipf("PostgreSQL does not run as root, and this user namespace has nobody else: %v", err)
	}
	return dir
}

// credential is an ordinary user, because PostgreSQL refuses to run as root.
func credential() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			uid, _ := strconv.Atoi(u.Uid)
			gid, _ := strconv.Atoi(u.Gid)
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		}
	}
	return nil
}
