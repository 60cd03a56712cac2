package audit

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/audittest"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// meter counts as the metrics do.
type meter struct {
	mu                    sync.Mutex
	written, lost, failed int
	last                  uint64
}

func (m *meter) count(n *int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	*n++
}

func (m *meter) counts() (written, lost, failed int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.written, m.lost, m.failed
}

func (m *meter) AuditWritten() { m.count(&m.written) }
func (m *meter) AuditLost()    { m.count(&m.lost) }
func (m *meter) AuditFailed()  { m.count(&m.failed) }

func (m *meter) AuditChain(seq uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = seq
}

// reader is standard output whose reader hangs or fails when told.
type reader struct {
	mu   sync.Mutex
	b    bytes.Buffer
	gate chan struct{} // a write waits for it; nil for no wait
	fail error
}

func (r *reader) Write(p []byte) (int, error) {
	r.mu.Lock()
	gate := r.gate
	r.mu.Unlock()
	if gate != nil {
		<-gate
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return 0, r.fail
	}
	return r.b.Write(p)
}

func (r *reader) set(gate chan struct{}, fail error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gate, r.fail = gate, fail
}

func (r *reader) lines(t *testing.T) []line {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	audittest.Check(t, r.b.Bytes())
	var out []line
	for text := range strings.Lines(r.b.String()) {
		out = append(out, parse(t, []byte(text)))
	}
	return out
}

type trail struct {
	*Log
	out   *reader
	meter *meter
	log   *bytes.Buffer
}

func newTrail(t *testing.T, level Level) *trail {
	t.Helper()
	x := &trail{out: &reader{}, meter: &meter{}, log: &bytes.Buffer{}}
	x.Log = testkit.Value(New(Config{Path: "-", Stdout: x.out, Level: level, Node: "node-1", Meter: x.meter, Logger: slog.New(slog.NewTextHandler(x.log, nil))}))(t)
	return x
}

// run runs the Log in synctest's time; the func that it returns stops it.
func (x *trail) run(t *testing.T) (stop func()) {
	t.Helper()
	return testkit.Background(t, x.Run)
}

func TestWhatHasALine(t *testing.T) {
	denied, sealed := fault.New(fault.Denied, "no"), fault.New(fault.Unavailable, "sealed")
	refresh := func(err error, change func(*volume.Outcome)) volume.Outcome {
		o := web(volume.Refreshed, err)
		change(&o)
		return o
	}
	nothing := func(*volume.Outcome) {}
	repeated := func(o *volume.Outcome) { o.Failures, o.Repeated = 3, true }
	changed := func(o *volume.Outcome) { o.Changed = true }
	gone := web(volume.Released, nil)
	gone.Provider = ""
	for _, tc := range []struct {
		name    string
		o       volume.Outcome
		changes bool
		all     bool
	}{
		{"publish", web(volume.Published, nil), true, true},
		{"failed publish", web(volume.Published, denied), true, true},
		{"unchanged refresh", refresh(nil, nothing), false, true},
		{"changed refresh", refresh(nil, changed), true, true},
		{"failed refresh", refresh(sealed, func(o *volume.Outcome) { o.Failures = 1 }), true, true},
		{"failed refresh, as before", refresh(sealed, repeated), false, true},
		{"failed refresh, another reason", refresh(denied, func(o *volume.Outcome) { o.Failures = 4 }), true, true},
		{"emptied, though denied before", refresh(denied, func(o *volume.Outcome) { repeated(o); o.Changed, o.Emptied = true, true }), true, true},
		{"recovered refresh", refresh(nil, func(o *volume.Outcome) { o.Failures = 2 }), true, true},
		{"unpublish", web(volume.Unpublished, nil), true, true},
		{"release", web(volume.Released, nil), true, true},
		{"release of nothing", gone, false, false},
		{"failed release", web(volume.ReleaseFailed, sealed), true, true},
		{"failed release, as before", func() volume.Outcome { o := web(volume.ReleaseFailed, sealed); repeated(&o); return o }(), false, true},
		{"recover", web(volume.Recovered, nil), true, true},
		{"set aside", volume.Outcome{Kind: volume.SetAside, Err: sealed}, true, true},
	} {
		for level, want := range map[Level]bool{Changes: tc.changes, All: tc.all} {
			x := newTrail(t, level)
			x.Observe(tc.o)
			testkit.Equal(t, tc.name+" at level "+string(level)+": a line", len(x.queue) == 1, want)
		}
	}
}

// A login or renewal has a line at level all, before the outcome that it was for.
func TestLogins(t *testing.T) {
	at := time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC)
	o := web(volume.Refreshed, nil)
	o.Accesses = []provider.Access{
		{Operation: provider.AccessLogin, Address: "https://vault", Namespace: "team", Mount: "kubernetes", Role: "web", Asked: "id-1", At: at, Took: 3 * time.Millisecond},
		{Operation: provider.AccessRenew, Address: "https://vault", Mount: "kubernetes", Role: "web", Lease: "database/creds/web/x", At: at, Err: fault.New(fault.Denied, "no")},
	}
	o.Changed = true
	for level, want := range map[Level]string{Changes: "refresh", All: "login renew refresh"} {
		x := newTrail(t, level)
		synctest.Test(t, func(t *testing.T) {
			x.Observe(o)
			x.run(t)()
		})
		var events []string
		lines := x.out.lines(t)
		for _, l := range lines {
			events = append(events, l.Event)
		}
		testkit.Equal(t, "lines of level "+string(level), strings.Join(events, " "), want)
		if level == Changes {
			continue
		}
		if l := lines[0]; l.Outcome != "success" || l.Store != (store{Address: "https://vault", Namespace: "team", Mount: "kubernetes", Role: "web"}) || l.Time != "2026-03-01T09:30:00.000Z" ||
			l.CorrelationIDs[0] != "id-1" || l.DurationMS != 3 || l.Pod.Name != "web-0" || l.Tokens[0].Audience != "vault" || l.Provider != "vault" {
			t.Errorf("the login's line is %+v", l)
		}
		if l := lines[1]; l.Outcome != "failure" || l.Reason != "Denied" || l.Store.Lease != "database/creds/web/x" {
			t.Errorf("the renewal's line is %+v", l)
		}
	}
}

// A release that is tried again says when.
func TestFailedReleaseHasALine(t *testing.T) {
	x := newTrail(t, Changes)
	o := web(volume.ReleaseFailed, fault.New(fault.Unavailable, "sealed"))
	o.Failures, o.NextAt = 1, time.Date(2026, 3, 1, 9, 30, 0, 0, time.UTC)
	synctest.Test(t, func(t *testing.T) {
		x.Observe(o)
		x.run(t)()
	})
	if l := x.out.lines(t)[0]; l.Event != "release" || l.Outcome != "failure" || l.RetryAt != "2026-03-01T09:30:00.000Z" || l.Failures != 1 {
		t.Errorf("the line is %+v", l)
	}
}

// A reader that hangs delays no volume, and the next line has the number of lost lines.
func TestNeverBlocksAndIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTrail(t, Changes)
		gate := make(chan struct{})
		x.out.set(gate, nil)
		stop := x.run(t)
		x.Observe(web(volume.Published, nil))
		time.Sleep(2 * gatherTime) // the writer hangs with the first line
		const more = waiting + 500
		for range more {
			x.Observe(web(volume.Unpublished, nil))
		}
		if _, lost, _ := x.meter.counts(); lost != 500 || len(x.queue) != waiting {
			t.Errorf("%d lines lost, %d waiting", lost, len(x.queue))
		}
		close(gate)
		time.Sleep(time.Minute) // it writes all that wait
		x.Observe(web(volume.Recovered, nil))
		stop()
		lines := x.out.lines(t)
		if last := lines[len(lines)-1]; len(lines) != waiting+2 || last.Event != "recover" || last.Lost != 500 || x.meter.written != len(lines) {
			t.Errorf("%d lines, %d counted, the last is %+v", len(lines), x.meter.written, last)
		}
		for _, l := range lines[:len(lines)-1] {
			if l.Lost != 0 {
				t.Fatalf("a line before the gap tells of it: %+v", l)
			}
		}
	})
}

// More lines than fit in one write do not wait for each other, so that a burst loses none.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTrail(t, Changes)
		stop := x.run(t)
		for burst := range 3 {
			for range waiting {
				x.Observe(web(volume.Published, nil))
			}
			time.Sleep(gatherTime)
			synctest.Wait()
			testkit.Equal(t, "lines", len(x.out.lines(t)), (burst+1)*waiting)
		}
		stop()
		if _, lost, _ := x.meter.counts(); lost != 0 {
			t.Errorf("%d lines are lost", lost)
		}
	})
}

func TestFailedWritesAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTrail(t, Changes)
		x.out.set(nil, errors.New("no space left on device"))
		stop := x.run(t)
		for i := range 3 {
			o := web(volume.Published, nil)
			o.ID = fmt.Sprint("csi-", i)
			x.Observe(o)
		}
		time.Sleep(time.Hour)
		if written, _, tries := x.meter.counts(); tries < 10 || tries > 300 || written != 0 {
			t.Errorf("%d tries in an hour, %d written", tries, written)
		}
		x.out.set(nil, nil)
		time.Sleep(longestPause)
		synctest.Wait()
		for i, l := range x.out.lines(t) {
			if l.Volume != fmt.Sprint("csi-", i) || l.Lost != 0 {
				t.Errorf("line %d is %+v", i, l)
			}
		}
		stop()
		if x.meter.written != 3 || x.meter.lost != 0 {
			t.Errorf("%d written, %d lost", x.meter.written, x.meter.lost)
		}
		if n := strings.Count(x.log.String(), "\n"); n != 2 || !strings.Contains(x.log.String(), "no space left") {
			t.Errorf("the episode's log, want a line for its begin and its end:\n%s", x.log)
		}
	})
}

func TestStopWritesWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTrail(t, Changes)
		for range 100 { // as Recover does, before anything runs
			x.Observe(web(volume.Recovered, nil))
		}
		x.run(t)()
		testkit.Equal(t, "lines", len(x.out.lines(t)), 100)
	})
}

// What was lost at the very end has a line of its own.
func TestStopTellsOfLostLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTrail(t, Changes)
		for range waiting + 7 {
			x.Observe(web(volume.Recovered, nil))
		}
		x.run(t)()
		lines := x.out.lines(t)
		if last := lines[len(lines)-1]; last.Event != lost || last.Lost != 7 || last.Pod != (pod{}) || last.Outcome != "" {
			t.Errorf("the last line is %+v", last)
		}
	})
}

func TestStopDoesNotHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newTrail(t, Changes)
		gate := make(chan struct{})
		x.out.set(gate, nil)
		stop := x.run(t)
		x.Observe(web(volume.Published, nil))
		x.Observe(web(volume.Unpublished, nil))
		began := time.Now()
		stop()
		if took := time.Since(began); took != flushTime || !strings.Contains(x.log.String(), "lines=2") {
			t.Errorf("the stop took %s; the log:\n%s", took, x.log)
		}
		close(gate)
	})
	synctest.Test(t, func(t *testing.T) {
		x := newTrail(t, Changes)
		x.out.set(nil, errors.New("broken"))
		stop := x.run(t)
		for range 1000 {
			x.Observe(web(volume.Published, nil))
		}
		stop()
		if x.meter.lost < 1000 || x.meter.written != 0 {
			t.Errorf("%d lost, %d written", x.meter.lost, x.meter.written)
		}
	})
}

func TestBadConfigurations(t *testing.T) {
	good := Config{Path: "-", Stdout: &reader{}, Level: All, Meter: &meter{}, Logger: slog.New(slog.DiscardHandler)}
	for text, spoil := range map[string]func(*Config){
		`"none"`:    func(c *Config) { c.Level = "none" },
		"Stdout":    func(c *Config) { c.Stdout = nil },
		"Meter":     func(c *Config) { c.Meter = nil },
		"no such":   func(c *Config) { c.Path = t.TempDir() + "/no/audit.log" },
		"directory": func(c *Config) { c.Path = t.TempDir() },
	} {
		c := good
		spoil(&c)
		testkit.Error(New(c))(t, text)
	}
}

// Whatever an outcome is made of, no secret reaches the line.
func TestNoSecretReachesTheLine(t *testing.T) {
	const marker = "s3cr3t-marker"
	token := "eyJhbGciOiJub25lIn0.eyJqdGkiOiJqdGktMSJ9." + marker // {"jti":"jti-1"}
	tokens := testkit.Value(identity.ParseTokens(`{"vault":{"token":"` + token + `"}}`))(t)
	value := secret.NewString(marker)
	x := newTrail(t, All)
	synctest.Test(t, func(t *testing.T) {
		for _, kind := range []volume.Kind{volume.Published, volume.Refreshed, volume.Unpublished, volume.Released, volume.Recovered} {
			o := web(kind, fault.New(fault.Rejected, "the value %v and the token %v", value, tokens["vault"].JWT))
			o.Tokens, o.Versions, o.Asked = tokens.Claims(), []provider.Version{{ID: "a", Version: "1"}}, []string{"id"}
			x.Observe(o)
		}
		x.run(t)()
	})
	text := x.out.b.String()
	if !strings.Contains(text, `"jti":"jti-1"`) || strings.Count(text, "\n") != 5 {
		t.Errorf("the lines are\n%s", text)
	}
	if strings.Contains(text, marker) || strings.Contains(text, "eyJ") {
		t.Errorf("a secret or a token is in\n%s", text)
	}
}
