package plugin

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/connectivity"

	"github.com/mayfly-csi/mayfly/test/pluginprovider"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// connectionTo acquires a connection to the provider aws and uses it for one call.
func connectionTo(t *testing.T, r *Registry) *connection {
	t.Helper()
	l := testkit.Value(r.acquire("aws"))(t)
	defer r.release(l, true)
	testkit.Must(t, l.ask(t.Context()))
	return l
}

func sweepWorld(t *testing.T, c Config) (*Registry, string, *pluginprovider.Server) {
	t.Helper()
	dir := testkit.Value(os.MkdirTemp("", "mayfly"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c.Dirs = []string{dir}
	r := testkit.Value(New(c))(t)
	return r, dir, start(t, dir)
}

func start(t *testing.T, dir string) *pluginprovider.Server {
	t.Helper()
	s := testkit.Value(pluginprovider.Start(dir, "aws", pluginprovider.Options{}))(t)
	t.Cleanup(s.Stop)
	return s
}

func closed(l *connection) bool { return l.conn.GetState() == connectivity.Shutdown }

func TestSweepIdle(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	r, _, _ := sweepWorld(t, Config{IdleTimeout: time.Minute, Now: func() time.Time { return now }})
	l := connectionTo(t, r)
	now = now.Add(time.Minute - 1)
	r.sweep()
	if closed(l) {
		t.Fatal("a connection was closed before its time")
	}
	busy, err := r.acquire("aws")
	if err != nil || busy != l {
		t.Fatalf("acquire returned another connection (%v)", err)
	}
	now = now.Add(time.Hour)
	r.sweep()
	if closed(l) {
		t.Fatal("a connection was closed under a call")
	}
	r.release(l, true)
	now = now.Add(time.Minute)
	r.sweep()
	if !closed(l) || len(r.connections) != 0 {
		t.Error("an unused connection is still open")
	}
	if next := connectionTo(t, r); next == l {
		t.Error("a closed connection is used again")
	}
}

// A connection whose socket is gone or replaced is closed once no call runs on it, and is not used
// again meanwhile.
func TestSweepStale(t *testing.T) {
	r, dir, _ := sweepWorld(t, Config{})
	old := connectionTo(t, r)
	running, err := r.acquire("aws")
	if err != nil || running != old {
		t.Fatalf("acquire returned another connection (%v)", err)
	}
	start(t, dir) // the same path, another file
	next := connectionTo(t, r)
	if next == old || closed(old) {
		t.Fatalf("the old connection is returned or closed under a call")
	}
	r.release(running, true)
	if !closed(old) {
		t.Error("the old connection is open after its last call")
	}
	testkit.Must(t, os.Remove(filepath.Join(dir, "aws.sock")))
	r.sweep()
	if !closed(next) || len(r.connections) != 0 {
		t.Error("a connection is open though its socket is gone")
	}
}
