package node

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-csi/mayfly/pkg/provider/vault"
	"github.com/mayfly-csi/mayfly/pkg/tmpfs"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/pkg/volume/limits"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// newStateDir is a directory without a mount after the test.
func newStateDir(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts tmpfs")
	}
	dir := filepath.Join(t.TempDir(), "state")
	t.Cleanup(func() {
		for unix.Unmount(dir, unix.MNT_DETACH) == nil {
		}
	})
	return dir
}

func newMounter(t *testing.T) *tmpfs.Mounter {
	t.Helper()
	return testkit.Value(tmpfs.New())(t)
}

func mustOpenState(t *testing.T, dir string) *state {
	t.Helper()
	s := testkit.Value(openState(dir, DefaultStateSize, newMounter(t), 0, quiet()))(t)
	t.Cleanup(func() { _ = s.close() })
	return s
}

// A second process waits for the first to let go of the state, and not for ever.
func TestStateIsLocked(t *testing.T) {
	dir := newStateDir(t)
	first := mustOpenState(t, dir)
	_, err := openState(dir, DefaultStateSize, newMounter(t), 0, quiet())
	if err == nil || !strings.Contains(err.Error(), "in use by another mayfly-node process") || !strings.Contains(err.Error(), dir) {
		t.Fatalf("the second process gets %v", err)
	}
	told := make(chan struct{})
	log := slog.New(slog.NewTextHandler(writerFunc(func(b []byte) {
		if bytes.Contains(b, []byte("waiting for another mayfly-node process")) {
			close(told) // panics at a second line
		}
	}), nil))
	opened := make(chan error, 1)
	go func() {
		s, err := openState(dir, DefaultStateSize, newMounter(t), time.Minute, log)
		if err == nil {
			err = s.close()
		}
		opened <- err
	}()
	<-told
	testkit.Must(t, first.close())
	testkit.Must(t, <-opened)
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) {
	f(b)
	return len(b), nil
}

func testConfig(t *testing.T, stateDir string) Config {
	t.Helper()
	dir := t.TempDir()
	c := Config{
		Version: "test", Logger: quiet(), Driver: "secrets-store.csi.k8s.io", NodeID: "node-1", Endpoint: "unix://" + filepath.Join(dir, "csi.sock"),
		ClassDir: dir, StateDir: stateDir, Limits: limits.Limits{Interval: time.Hour, SizeLimit: 1 << 20, InodeLimit: 64}, RefreshWorkers: 1, RefreshTimeout: time.Minute,
		Grace: -lockMargin, Vault: vault.Config{Name: "vault"}, OpenBao: vault.Config{Name: "openbao"},
	}
	return c
}

// A second driver on the same state harms nothing: it fails before it reads a record. After the
// first has ended it takes over.
func TestSecondDriverTouchesNothing(t *testing.T) {
	dir := newStateDir(t)
	first := testkit.Value(New(testConfig(t, dir)))(t)
	record := filepath.Join(dir, "volumes", volume.RecordKey("csi-a")+".json")
	testkit.Must(t, os.WriteFile(record, []byte("spoilt"), 0o600)) // it would be set aside
	partial := record + ".partial"
	testkit.Must(t, os.WriteFile(partial, nil, 0o600))
	if _, err := New(testConfig(t, dir)); err == nil || !strings.Contains(err.Error(), "in use by another mayfly-node process") {
		t.Fatalf("the second driver: %v", err)
	}
	for _, file := range []string{record, partial} {
		if _, err := os.Stat(file); err != nil {
			t.Errorf("the second driver has been at work: %v", err)
		}
	}
	testkit.Must(t, first.closeState())
	next := testkit.Value(New(testConfig(t, dir)))(t)
	testkit.Must(t, next.closeState())
	if _, err := os.Stat(record + ".corrupt"); err != nil {
		t.Errorf("the next driver has not looked at the records: %v", err)
	}
}

// A driver that cannot start lets go of the state.
func TestFailedStartLetsGoOfTheState(t *testing.T) {
	dir := newStateDir(t)
	c := testConfig(t, dir)
	c.Interval = time.Millisecond
	if _, err := New(c); err == nil {
		t.Fatal("the driver started")
	}
	testkit.Must(t, mustOpenState(t, dir).close())
}

// A write after an unmount of the state does not reach the disk.
func TestStateIsNeverWrittenToTheDisk(t *testing.T) {
	dir := newStateDir(t)
	s := mustOpenState(t, dir)
	records := testkit.Value(s.records(nil, quiet()))(t)
	testkit.Must(t, unix.Unmount(dir, unix.MNT_DETACH))
	testkit.Must(t, records.Put(&volume.Record{Request: volume.Request{Identity: volume.Identity{ID: "a", Target: "/a"}}}))
	testkit.Equal(t, "records", len(testkit.Value(records.Load())(t).Records), 1)
	if _, err := s.identityKey(); err != nil {
		t.Error(err)
	}
	entries := testkit.Value(os.ReadDir(dir))(t)
	testkit.Empty(t, "the disk holds", entries)
	on := testkit.Value(os.Open(dir))(t)
	defer func() { _ = on.Close() }()
	testkit.Says(t, (&state{root: on}).checkMemory(), "unmounted") // a directory on the disk
}

func TestIdentityKeyOutlivesARestart(t *testing.T) {
	dir := newStateDir(t)
	first := mustOpenState(t, dir)
	key := testkit.Value(first.identityKey())(t)
	testkit.Must(t, first.close())
	next := mustOpenState(t, dir)
	if again, err := next.identityKey(); err != nil || !bytes.Equal(again.Reveal(), key.Reveal()) || key.Len() != identityKeySize {
		t.Errorf("another key after a restart: %v", err)
	}
	testkit.Equal(t, "the mode", testkit.Value(os.Stat(filepath.Join(dir, identityKeyFile)))(t).Mode(), 0o600)
	if _, err := os.Stat(filepath.Join(dir, "volumes")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
