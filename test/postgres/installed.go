package postgres

import (
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

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
	dir, err := os.MkdirTemp("", "pg")
	testkit.Must(t, err)
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
