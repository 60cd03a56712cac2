package audit_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/audit"
	"github.com/mayfly-csi/mayfly/test/audittest"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

type meter struct {
	mu                    sync.Mutex
	written, lost, failed int
}

func (m *meter) add(n *int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	*n++
}

func (m *meter) AuditWritten() { m.add(&m.written) }
func (m *meter) AuditLost()    { m.add(&m.lost) }
func (m *meter) AuditFailed()  { m.add(&m.failed) }

// out is a standard output that fails, or blocks, on request.
type out struct {
	mu   sync.Mutex
	text bytes.Buffer
	err  error
}

func (o *out) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0, o.err
	}
	return o.text.Write(p)
}

func (o *out) fail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

func start(t *testing.T, path string, o *out) (*audit.Log, *meter, func()) {
	t.Helper()
	m := &meter{}
	l := testkit.Value(audit.New(path, o, "node-1", m, slog.New(slog.DiscardHandler)))(t)
	return l, m, testkit.Background(t, l.Run)
}

func lines(t *testing.T, text []byte) []map[string]any {
	t.Helper()
	audittest.Check(t, text)
	var all []map[string]any
	for one := range bytes.Lines(text) {
		var l map[string]any
		if err := json.Unmarshal(one, &l); err != nil {
			t.Fatalf("%q: %v", one, err)
		}
		all = append(all, l)
	}
	return all
}

func TestLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, m, stop := start(t, path, nil)
	l.Observe(audit.Event{Kind: audit.Encrypt, UID: "u1", KeyID: "id", Peer: audit.Peer{PID: 7}, By: "local-key", Took: 1500 * time.Microsecond})
	l.Observe(audit.Event{Kind: audit.Decrypt, UID: "u2\nforged", KeyID: strings.Repeat("x", 9000), Err: fault.New(fault.Denied, "no"), Correlation: "c"})
	stop()
	text := testkit.Value(os.ReadFile(path))(t)
	all := lines(t, text)
	if len(all) != 2 || m.written != 2 || m.lost != 0 {
		t.Fatalf("%s", text)
	}
	first, second := all[0], all[1]
	if first["event"] != "encrypt" || first["outcome"] != "success" || first["uid"] != "u1" || first["node"] != "node-1" || first["durationMS"] != 1.5 || first["answeredBy"] != "local-key" || first["apiVersion"] != "audit.mayfly.dev/v1" {
		t.Errorf("%v", first)
	}
	if id, _ := second["keyID"].(string); second["reason"] != "Denied" || second["error"] != "no" || len(id) > 5000 || second["uid"] != "u2\nforged" {
		t.Errorf("%v", second)
	}
	testkit.Equal(t, "mode", testkit.Value(os.Stat(path))(t).Mode().Perm(), 0o600)
}

// While the output fails lines wait; those above the bound are lost, which the next line reports.
func TestLostLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &out{err: errors.New("full")}
		l, m, stop := start(t, "-", o)
		const surplus = 3
		l.Observe(audit.Event{Kind: audit.Decrypt, UID: "first"})
		synctest.Wait() // it is being written
		for range 4096 + surplus {
			l.Observe(audit.Event{Kind: audit.Decrypt, UID: "u"})
		}
		o.fail(nil)
		time.Sleep(time.Minute)
		l.Observe(audit.Event{Kind: audit.Decrypt, UID: "last"})
		stop()
		all := lines(t, o.text.Bytes())
		last := all[len(all)-1]
		if len(all) != 4096+2 || last["lost"] != float64(surplus) || last["uid"] != "last" || m.lost != surplus || m.failed == 0 {
			t.Errorf("%d lines, the last %v, %d lost, %d failed", len(all), last, m.lost, m.failed)
		}
	})
}

func TestNoTrail(t *testing.T) {
	l, m, stop := start(t, "", nil)
	l.Observe(audit.Event{Kind: audit.Encrypt})
	stop()
	testkit.Equal(t, "lines counted", m.written+m.lost, 0)
	if _, err := audit.New(filepath.Join(t.TempDir(), "no", "x"), nil, "n", m, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a path that cannot be")
	}
}
