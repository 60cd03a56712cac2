package main

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
	"github.com/mayfly-csi/mayfly/test/pluginprovider"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

var noon = time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)

// after makes moments from milliseconds.
func after(ms ...int) []time.Time {
	var all []time.Time
	for _, m := range ms {
		all = append(all, noon.Add(time.Duration(m)*time.Millisecond))
	}
	return all
}

func TestOutageCount(t *testing.T) {
	for name, tc := range map[string]struct {
		turned []time.Time
		want   outage
	}{
		"none":          {nil, outage{}},
		"one":           {after(500), outage{Requests: 1, Most: 1, MostAt: 500}},
		"at a distance": {after(0, 1000, 2000), outage{Requests: 3, Most: 1, MostLater: 1}},
		"a burst first": {after(100, 110, 120, 1050, 1300, 2150, 3300), outage{Requests: 7, Most: 4, MostAt: 100, MostLater: 2}},
		"a burst later": {after(0, 5000, 5500, 5999, 6000), outage{Requests: 5, Most: 3, MostAt: 5000, MostLater: 3}},
	} {
		tc.want.Lasted = 10000
		var got outage
		got.count(noon, noon.Add(10*time.Second), tc.turned)
		if !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
		if mean := got.mean(); mean != float64(len(tc.turned))/10 {
			t.Errorf("%s: %v a second", name, mean)
		}
	}
	if mean := (outage{}).mean(); mean != 0 {
		t.Errorf("an outage that did not last: %v a second", mean)
	}
}

// TestWindow has requests before, within and after a window; some answers come after its end.
func TestWindow(t *testing.T) {
	entry := func(id string, ms int, who, path string) vaulttest.AuditEntry {
		return vaulttest.AuditEntry{RequestID: id, Time: after(ms)[0], DisplayName: who, Path: path}
	}
	entries := []vaulttest.AuditEntry{
		entry("early", 0, "a", "kv/data/x"), entry("early", 1001, "a", "kv/data/x"),
		entry("1", 1000, "a", "kv/data/x"), entry("1", 1001, "a", "kv/data/x"),
		entry("2", 1500, "a", "kv/data/y"), entry("3", 1600, "b", "kv/data/x"),
		entry("4", 1700, "a", "kv/data/x"),
		entry("root", 1700, "root", "kv/data/x"), entry("check", 1700, "a", "kv/metadata/x"),
		entry("late", 2999, "b", "kv/data/x"), entry("late", 3001, "b", "kv/data/x"),
		entry("over", 3000, "b", "kv/data/x"),
	}
	inside := within(entries, after(1000)[0], after(3000)[0])
	want := map[pair]int{{"a", "kv/data/x"}: 2, {"a", "kv/data/y"}: 1, {"b", "kv/data/x"}: 2}
	if got := readsByPair(inside); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := countRequests(inside); got.Reads != 5 || got.Checks != 1 {
		t.Errorf("counted %+v", got)
	}
	for pairs, want := range map[int][2]int{3: {1, 2}, 4: {0, 2}} {
		s := rested{Pairs: pairs}
		if err := s.perPair(readsByPair(inside)); err != nil || s.Least != want[0] || s.Most != want[1] {
			t.Errorf("of %d pairs: %+v, %v", pairs, s, err)
		}
	}
	for name, counts := range map[string]map[pair]int{"too many": want, "none": {}} {
		if err := (&rested{Pairs: 2}).perPair(counts); err == nil {
			t.Errorf("%s passes", name)
		}
	}
}

func TestExpected(t *testing.T) {
	for intervals, want := range map[int][2]int{1: {1, 2}, 2: {2, 3}, 10: {10, 11}, 19: {19, 20}, 20: {20, 22}} {
		if least, most := expected(intervals); least != want[0] || most != want[1] {
			t.Errorf("%d intervals: %d to %d, want %v", intervals, least, most, want)
		}
	}
}

func TestWritesAndCalls(t *testing.T) {
	if n := writes(map[string]int{"class list": 1, "class watch": 2, "status get": 3, "status create": 4, "event update": 5, "PATCH /x": 6}); n != 15 {
		t.Errorf("%d writes", n)
	}
	got := countCalls(map[string]int{"/auth": 1, "/get-secret-value": 2, "/get-rotated-secret-value": 3, "/describe-item": 4, "/list-items": 5})
	want := requests{Logins: 1, Reads: 5, Checks: 4, Other: 5, OtherPaths: map[string]int{"/list-items": 5}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestMountRequest compares the bare call with the request of the driver's provider package for the
// same pod.
func TestMountRequest(t *testing.T) {
	n, _ := simulatedNode(t)
	p := n.pods("plugin", plugged, 1)[0]
	var store pluginprovider.Memory
	files := wanted(plugged, "1")
	store.Set("username", files["db/username"])
	store.Set("password", files["db/password"])
	store.Set("key", files["api-key"])
	dir := t.TempDir()
	server := testkit.Value(pluginprovider.Start(dir, pluginName, pluginprovider.Options{Store: &store}))(t)
	t.Cleanup(server.Stop)
	source, end, err := providerPackage(t.Context(), dir)
	testkit.Must(t, err)
	defer end()
	r := testkit.Value(fetchRequest(p, "/target", pluginName, pluginParameters()))(t)
	payload := testkit.Value(source.Fetch(t.Context(), r))(t)
	bare := testkit.Value(mountRequest(p, "/target"))(t)
	if sent := server.Requests()[0]; !proto.Equal(sent, bare) {
		t.Errorf("the provider package sends\n%v\nand the bare call is\n%v", sent, bare)
	}
	answer := testkit.Value(server.Mount(t.Context(), bare))(t)
	testkit.Must(t, sameFiles(answer, payload))
	answer.Files[0].Contents = []byte("other")
	if sameFiles(answer, payload) == nil {
		t.Error("another answer passes")
	}
	payload.Files = append(payload.Files, provider.File{Path: "more", Contents: secret.NewBytes([]byte("x"))})
	if good, err := server.Mount(t.Context(), bare); err != nil || sameFiles(good, payload) == nil {
		t.Errorf("another payload passes, %v", err)
	}
}

// TestAkeylessFloor does the bare work on the double, which counts and refuses.
func TestAkeylessFloor(t *testing.T) {
	n, _ := simulatedNode(t)
	n.config.pods, n.config.atOnce = 3, 2
	testkit.Must(t, n.startAkeyless(t.Context()))
	t.Cleanup(func() { testkit.Check(t, n.akeyless.Close()) })
	f := newFloor(2, akeylessFloor(n.akeyless.URL()))
	defer f.close()
	count := testkit.Value(akeylessStore{n.akeyless}.begin())(t)
	testkit.Value(f.run(t.Context(), n.pods("a", keyless, 3)))(t)
	if got, err := count(t.Context()); err != nil || got.Logins != 3 || got.Reads != 6 || got.total() != 9 {
		t.Errorf("counted %s, %v", got, err)
	}
	n.akeyless.Forbid()
	if _, err := f.run(t.Context(), n.pods("b", keyless, 1)); err == nil {
		t.Error("what is forbidden passes")
	}
}

func TestPause(t *testing.T) {
	testkit.Must(t, pause(t.Context(), time.Now().Add(-time.Second)))
	gone := errors.New("gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if err := pause(ctx, time.Now().Add(time.Hour)); !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
}

// TestRestVerdicts: every single thing that is too much is seen.
func TestRestVerdicts(t *testing.T) {
	good := func() rested {
		return rested{Accounts: 2, Pairs: 4, Least: 10, Most: 11, spent: spent{Vault: requests{Reads: 41}, API: map[string]int{"class watch": 1}}}
	}
	r := &results{Size: size{Pods: 2, SteadyInterval: 5000, SteadyIntervals: 10}}
	if x := r.restRow(good()); !x.Met || x.What != "Steady state, 2 volumes, 2 service accounts, 10 intervals of 5 s" || !strings.Contains(x.Measured, "41 reads: 1.02 an interval for each of 4 pairs") {
		t.Errorf("good: %+v", x)
	}
	for name, spoil := range map[string]func(*rested){
		"a pair too often":   func(s *rested) { s.Most = 12 },
		"a pair too seldom":  func(s *rested) { s.Least = 9 },
		"a login":            func(s *rested) { s.Vault.Logins = 1 },
		"a version check":    func(s *rested) { s.Vault.Checks = 1 },
		"something else":     func(s *rested) { s.Vault.Other = 1 },
		"a write to the API": func(s *rested) { s.API["status update"] = 1 },
	} {
		s := good()
		spoil(&s)
		if x := r.restRow(s); x.Met || x.verdict() != "no" {
			t.Errorf("%s: %+v", name, x)
		}
	}
}

func TestOutageVerdicts(t *testing.T) {
	r := &results{Outage: outage{Lasted: 60000, Requests: 120, AllFresh: 5000}}
	for i, x := range r.outageRows() {
		if !x.Met {
			t.Errorf("%d: %+v", i, x)
		}
	}
	r.Outage.Requests, r.Outage.AllFresh = 121, 5001
	for i, x := range r.outageRows() {
		if x.Met {
			t.Errorf("%d: %+v", i, x)
		}
	}
}

func TestPluginVerdicts(t *testing.T) {
	r := &results{Plugin: pluginTimes{Bare: 0.5, Fetch: 1.5, Publish: 1.75, Remembered: 1.2}}
	rows := r.pluginRows()
	for i, want := range []string{"", "yes", "no"} {
		if got := rows[i].verdict(); got != want {
			t.Errorf("%+v: %q, want %q", rows[i], got, want)
		}
	}
	if got := rows[2].Measured; got != "p50 1.75 ms = 1.25 ms more; the driver's publishes that ask nobody take 1.20 ms" {
		t.Errorf("measured: %q", got)
	}
}

func TestAkeylessVerdicts(t *testing.T) {
	measured := func(wall float64) firstPublishes {
		return firstPublishes{
			Floor: []float64{100}, Many: publishes{Wall: []float64{wall}, Requests: requests{Logins: 2, Reads: 4}}, One: publishes{Wall: []float64{900}},
			Alone: publishes{Wall: []float64{wall - 15}, Requests: requests{Logins: 2, Reads: 4}},
		}
	}
	r := &results{Size: size{Pods: 2, AkeylessLatency: 22.5, AkeylessCached: 2.5}, Akeyless: measured(120), AkeylessCached: measured(140)}
	rows := r.akeylessRows()
	for i, want := range []string{"", "yes", "yes", "", "", "yes", "no", ""} {
		if got := rows[i].verdict(); got != want {
			t.Errorf("%+v: %q, want %q", rows[i], got, want)
		}
	}
	if !strings.Contains(rows[0].What, "service, 22.5 ms an answer") || !strings.Contains(rows[4].What, "cache, 2.5 ms an answer, and asks for logins Akeyless' service, 22.5 ms") {
		t.Errorf("the double's time is not told: %q, %q", rows[0].What, rows[4].What)
	}
	r.Akeyless.Many.Requests.Reads++
	if r.akeylessRows()[2].Met {
		t.Error("a read too many passes")
	}
}

func TestBinaryRow(t *testing.T) {
	r := &results{Binary: binary{Bytes: 26600000, Arch: "amd64"}}
	if x := r.binaryRow(); x.What != "Size of the binary, amd64, stripped" || x.Measured != "26.6 MB" {
		t.Errorf("%+v", x)
	}
	r.Binary.Given = true
	if x := r.binaryRow(); strings.Contains(x.What, "stripped") {
		t.Errorf("nothing is known of a binary that was given: %+v", x)
	}
}

// TestMarkdownHasEveryRow: the table of docs/dev/performance.md is made from it.
func TestMarkdownHasEveryRow(t *testing.T) {
	r := &results{config: config{markdown: true}}
	var b bytes.Buffer
	testkit.Must(t, r.print(&b))
	lines := strings.Split(b.String(), "\n")
	for _, x := range r.rows() {
		found := false
		for _, line := range lines {
			found = found || strings.HasPrefix(line, "| "+x.What+" |") && strings.Count(line, "|") == 5
		}
		if !found {
			t.Errorf("%q is no line of the table", x.What)
		}
	}
	testkit.Has(t, b.String(), "Steady state", "Vault answers 503", "After its return", "Plugin's own time", "A whole publish with the plugin", "Akeyless gateway that asks", "Akeyless gateway that has", "Size of the binary")
}
