package trail

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/audit"
	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func newTrail(object string) *Trail {
	t := New("shop", "db", object, time.Time{})
	t.most = 1000
	return t
}

type noMeter struct{}

func (noMeter) AuditWritten()     {}
func (noMeter) AuditLost()        {}
func (noMeter) AuditFailed()      {}
func (noMeter) AuditChain(uint64) {}

func driverLines(t *testing.T, outcomes ...volume.Outcome) string {
	t.Helper()
	var b bytes.Buffer
	log := testkit.Value(audit.New(audit.Config{Path: "-", Stdout: &b, Level: audit.All, Node: "n1", Meter: noMeter{}, Logger: slog.New(slog.DiscardHandler)}))(t)
	for _, o := range outcomes {
		log.Observe(o)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // Run writes the queued lines and ends
	testkit.Must(t, log.Run(ctx))
	return b.String()
}

// outcome is of a pod of the namespace shop that mounts the class db.
func outcome(kind volume.Kind, pod string, versions ...provider.Version) volume.Outcome {
	return volume.Outcome{
		Kind: kind, Provider: "vault", Changed: true, Versions: versions,
		Identity: volume.Identity{
			ID:  "csi-" + pod,
			Pod: identity.Pod{Namespace: "shop", Name: pod, UID: "uid-" + pod, ServiceAccount: "web"}, Class: class.Ref{Namespace: "shop", Name: "db"},
		},
	}
}

// TestDriversLines reads lines that the driver's own code has written.
func TestDriversLines(t *testing.T) {
	denied := outcome(volume.Refreshed, "web-0", provider.Version{ID: "password", Version: "7"})
	denied.Err = fault.New(fault.Denied, "permission denied")
	denied.Failures = 1
	other := outcome(volume.Published, "web-0", provider.Version{ID: "password", Version: "99"})
	other.Class.Name = "other"
	text := driverLines(t,
		outcome(volume.Published, "web-0", provider.Version{ID: "password", Version: "6"}, provider.Version{ID: "key", Version: "1"}),
		outcome(volume.Refreshed, "web-0", provider.Version{ID: "password", Version: "7"}, provider.Version{ID: "key", Version: "1"}),
		denied, other,
		outcome(volume.Published, "web-1", provider.Version{ID: "key", Version: "1"}),
		outcome(volume.Unpublished, "web-0"),
	)
	tr := newTrail("")
	testkit.Must(t, tr.Read(strings.NewReader("time=x level=INFO msg=ready\n"+text), "n1"))
	if tr.sums.Lines != 6 || tr.sums.Bad != 0 || tr.sums.Lost != 0 {
		t.Fatalf("%d lines, %d bad (%s), %d lost", tr.sums.Lines, tr.sums.Bad, tr.sums.Why, tr.sums.Lost)
	}
	readers := tr.Readers()
	if len(readers) != 2 {
		t.Fatalf("%+v", readers)
	}
	i := slices.IndexFunc(readers, func(r Reader) bool { return r.Pod == "web-0" })
	r := readers[i]
	if r.Reads != 2 || r.Failures != 1 || r.Failure == nil || r.Failure.Reason != "Denied" || r.Gone == nil || r.First == nil || r.Last == nil {
		t.Errorf("%+v", r)
	}
	if r.ServiceAccount != "web" || r.Node != "n1" || !slices.Equal(r.Versions["password"], []string{"6", "7"}) || !slices.Equal(r.Versions["key"], []string{"1"}) {
		t.Errorf("%+v", r)
	}
	first, rest, _ := strings.Cut(text, "\n")
	_, rest, _ = strings.Cut(rest, "\n") // without the second line
	gap := newTrail("")
	if err := gap.Read(strings.NewReader(first+"\n"+rest), "n1"); err != nil || tr.sums.Broken != 0 || gap.sums.Broken != 1 || !strings.Contains(gap.sums.Break, "1 line is missing") {
		t.Errorf("%d broken (%s); without a line %d: %v", tr.sums.Broken, tr.sums.Break, gap.sums.Broken, err)
	}
	one := newTrail("password")
	testkit.Must(t, one.Read(strings.NewReader(text), ""))
	if readers := one.Readers(); len(readers) != 1 || readers[0].Pod != "web-0" || len(readers[0].Versions) != 1 {
		t.Errorf("of one object: %+v", readers)
	}
}

const good = `{"apiVersion":"audit.mayfly.dev/v1","time":"2026-03-01T09:30:00.125Z","event":"refresh","outcome":"success","node":"n1",` +
	`"pod":{"namespace":"shop","name":"web-0","uid":"c1"},"serviceAccount":{"name":"web"},"class":{"namespace":"shop","name":"db"},` +
	`"objects":[{"id":"password","version":"7"}],"summary":{"since":"2026-03-01T09:29:00.000Z","refreshes":5,"failed":2}}`

func TestLines(t *testing.T) {
	for _, tc := range []struct {
		name, text              string
		node                    string
		reads, failed, bad, all int
	}{
		{"a summary", good, "n1", 3, 2, 0, 1},
		{"of any node", good, "", 3, 2, 0, 1},
		{"of another node", good, "n2", 0, 0, 1, 1},
		{"with kubectl's prefix", "[pod/mayfly-a/mayfly-node] 2026-03-01T09:30:01.123456789Z " + good, "n1", 3, 2, 0, 1},
		{"with a timestamp", "2026-03-01T09:30:01.123456789Z " + good, "n1", 3, 2, 0, 1},
		{"within another line", `time=x msg="` + good + `"`, "n1", 0, 0, 0, 0},
		{"after a blank", " " + good, "n1", 0, 0, 0, 0},
		{"within another object", `{"msg":` + good + `}`, "n1", 0, 0, 0, 0},
		{"another version", strings.Replace(good, "/v1", "/v2", 1), "n1", 0, 0, 0, 0},
		{"cut", good[:200], "n1", 0, 0, 1, 1},
		{"an unknown event", strings.Replace(good, `"refresh"`, `"look"`, 1), "n1", 0, 0, 0, 1},
		{"a pod of another namespace", strings.Replace(good, `"shop","name":"web-0"`, `"other","name":"web-0"`, 1), "n1", 0, 0, 1, 1},
		{"a name with an escape", strings.Replace(good, "web-0", `web-0\u001b[2J`, 1), "n1", 0, 0, 1, 1},
		{"a name with a line end", strings.Replace(good, `"name":"web"`, `"name":"web\nx"`, 1), "n1", 0, 0, 1, 1},
		{"more failures than refreshes", strings.Replace(good, `"failed":2`, `"failed":6`, 1), "n1", 0, 0, 1, 1},
		{"negative failures", strings.Replace(good, `"failed":2`, `"failed":-2`, 1), "n1", 0, 0, 1, 1},
		{"another outcome", strings.Replace(good, `"success"`, `"won"`, 1), "n1", 0, 0, 1, 1},
		{"no pod", strings.Replace(good, `"pod"`, `"cat"`, 1), "n1", 0, 0, 1, 1},
		{"another class", strings.Replace(good, `"name":"db"`, `"name":"other"`, 1), "n1", 0, 0, 0, 1},
		{"too long", strings.Replace(good, `"7"`, `"`+strings.Repeat("7", chain.MaxLine)+`"`, 1), "n1", 0, 0, 1, 1},
	} {
		tr := newTrail("")
		testkit.Must(t, tr.Read(strings.NewReader(tc.text+"\n"), tc.node))
		reads, failed := 0, 0
		for _, r := range tr.readers {
			reads, failed = reads+r.Reads, failed+r.Failures
		}
		if reads != tc.reads || failed != tc.failed || tr.sums.Bad != tc.bad || tr.sums.Lines != tc.all {
			t.Errorf("%s: %d reads, %d failed, %d bad (%s) of %d lines", tc.name, reads, failed, tr.sums.Bad, tr.sums.Why, tr.sums.Lines)
		}
	}
}

// TestUncertain: a summary does not list the objects of the reads before the last one.
func TestUncertain(t *testing.T) {
	failed := strings.NewReplacer(`"success"`, `"failure"`, `[{"id":"password","version":"7"}]`, `[],"objectsOmitted":2`).Replace(good)
	for _, tc := range []struct {
		text             string
		reads, uncertain int
	}{
		{good, 3, 0},
		{failed, 3, 3},
		{strings.Replace(failed, `"objectsOmitted":2,`, "", 1), 3, 3}, // emptied
	} {
		tr := newTrail("password")
		testkit.Must(t, tr.Read(strings.NewReader(tc.text+"\n"), "n1"))
		if all := tr.Readers(); len(all) != 1 || all[0].Reads != tc.reads || all[0].Uncertain != tc.uncertain || all[0].Failures != 2 {
			t.Errorf("%+v of %s", all, tc.text)
		}
	}
}

func TestSince(t *testing.T) {
	tr := newTrail("")
	tr.since = time.Date(2026, 3, 1, 9, 31, 0, 0, time.UTC)
	tr.take([]byte(good), "")
	testkit.Equal(t, "a line before --since counts", len(tr.readers), 0)
}

// manyLines generates lines of always different pods with always different versions.
type manyLines struct {
	left int
	text []byte
}

func (m *manyLines) Read(p []byte) (int, error) {
	if len(m.text) == 0 {
		if m.left == 0 {
			return 0, io.EOF
		}
		m.left--
		text := strings.Replace(good, "web-0", fmt.Sprintf("web-%d", m.left), 1)
		text = strings.Replace(text, `"version":"7"`, fmt.Sprintf(`"version":"%d-%s"`, m.left, strings.Repeat("x", 500)), 1)
		m.text = append([]byte(text), '\n')
	}
	n := copy(p, m.text)
	m.text = m.text[n:]
	return n, nil
}

// TestBounded: the memory for a trail does not grow with its size.
func TestBounded(t *testing.T) {
	const most, pods = 1000, 3000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	tr := newTrail("")
	testkit.Must(t, tr.Read(&manyLines{left: pods}, ""))
	runtime.GC()
	runtime.ReadMemStats(&after)
	if len(tr.readers) != most || tr.sums.Omitted != pods-most {
		t.Errorf("%d readers, %d omitted", len(tr.readers), tr.sums.Omitted)
	}
	if growth := int64(after.HeapAlloc) - int64(before.HeapAlloc); growth > most*2048 {
		t.Errorf("%d bytes for %d readers", growth, most)
	}
	runtime.KeepAlive(tr)
	for i := range 200 {
		text := strings.Replace(good, "web-0", fmt.Sprintf("web-%d", pods-1), 1) // the first that was read
		tr.take([]byte(strings.Replace(text, `"7"`, fmt.Sprintf(`"%d"`, i), 1)), "")
	}
	if r := tr.readers[fmt.Sprintf("web-%d/c1", pods-1)]; r == nil || len(r.Versions["password"]) != maxVersions || r.Versions["password"][maxVersions-1] != "199" {
		t.Errorf("%+v", r)
	}
}

func FuzzTrail(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(good[:100]))
	f.Add([]byte(`{"apiVersion":"audit.mayfly.dev/v1","time":"2026-03-01T09:30:00Z","event":"lost","node":"n1","lost":3}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tr := newTrail("")
		testkit.Must(t, tr.Read(bytes.NewReader(data), ""))
		for _, r := range tr.Readers() {
			if !name.MatchString(r.Pod) || r.Namespace != "shop" || r.Reads < 0 || r.Failures < 0 || !name.MatchString(r.Node) {
				t.Errorf("%+v", r)
			}
		}
	})
}
