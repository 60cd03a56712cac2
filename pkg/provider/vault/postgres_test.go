package vault_test

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
)

// postgres is a real PostgreSQL server, with Vault's database engine on it.
type postgres struct {
	bin, dir string
	port     int
}

// newPostgres starts a server for the test and mounts the engine at database.
// Where PostgreSQL is not installed the test is skipped.
func newPostgres(t *testing.T, w *world) *postgres {
	t.Helper()
	bin := postgresBin(t)
	pg := &postgres{bin: bin, dir: postgresDir(t), port: freePort(t)}
	if out, err := pg.command("initdb", "-D", pg.dir+"/data", "-U", "postgres", "-A", "trust", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	server := pg.command("postgres", "-D", pg.dir+"/data", "-k", pg.dir, "-p", strconv.Itoa(pg.port), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off")
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	server.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGINT)
		_ = server.Wait()
		if t.Failed() {
			t.Logf("PostgreSQL said:\n%s", &log)
		}
	})
	eventually(t, 30*time.Second, "PostgreSQL answers", func() bool {
		return pg.command("psql", "-h", pg.dir, "-p", strconv.Itoa(pg.port), "-U", "postgres", "-Atc", "SELECT 1").Run() == nil
	})
	pg.query(t, "CREATE ROLE vault SUPERUSER LOGIN PASSWORD 'v'; CREATE ROLE batch LOGIN PASSWORD 'old'")
	err := w.EnableDatabase(t.Context(), "database", "pg", map[string]any{
		"connection_url": fmt.Sprintf("postgresql://{{username}}:{{password}}@127.0.0.1:%d/postgres?sslmode=disable", pg.port),
		"username":       "vault", "password": "v", "allowed_roles": "*",
	})
	if err != nil {
		t.Fatal(err)
	}
	return pg
}

func postgresBin(t *testing.T) string {
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

// postgresDir is short enough for a socket, and belongs to who runs the server.
func postgresDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if c := credential(); c != nil {
		if err := os.Chown(dir, int(c.Uid), int(c.Gid)); err != nil {
			t.Fatal(err)
		}
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

func (pg *postgres) command(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(pg.bin, name), args...)
	c.Dir = pg.dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: credential()}
	return c
}

func (pg *postgres) query(t *testing.T, sql string) string {
	t.Helper()
	out, err := pg.command("psql", "-h", pg.dir, "-p", strconv.Itoa(pg.port), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-Atc", sql).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", sql, err, out)
	}
	return strings.TrimSpace(string(out))
}

// logsIn tells whether the database takes the credential.
func (pg *postgres) logsIn(name, password string) bool {
	c := pg.command("psql", fmt.Sprintf("postgresql://%s:%s@127.0.0.1:%d/postgres?sslmode=disable", name, password, pg.port), "-Atc", "SELECT 1")
	return c.Run() == nil
}

// users counts the roles that Vault made.
func (pg *postgres) users(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(pg.query(t, "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%'"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// role makes a dynamic role.
func (pg *postgres) role(t *testing.T, w *world, name, ttl, maxTTL string) {
	t.Helper()
	err := w.Write(t.Context(), "database/roles/"+name, map[string]any{
		"db_name": "pg", "default_ttl": ttl, "max_ttl": maxTTL,
		"creation_statements": `CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'`,
	})
	if err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// eventually polls a condition until it holds.
func eventually(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("still not so after %s: %s", within, what)
		}
	}
}
