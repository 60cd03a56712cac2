package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
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

func TestGate(t *testing.T) {
	var seen []string
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("X-Vault-Token"))
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.Copy(w, r.Body)
	}))
	t.Cleanup(backend.Close)
	g := startGate(backend.URL)
	t.Cleanup(g.close)
	ask := func() (int, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, g.url()+"/v1/a%20b?list=true", strings.NewReader("body"))
		testkit.Must(t, err)
		r.Header.Set("X-Vault-Token", "t")
		resp, err := http.DefaultClient.Do(r)
		testkit.Must(t, err)
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		testkit.Must(t, err)
		return resp.StatusCode, string(body)
	}
	if code, body := ask(); code != http.StatusAccepted || body != "body" {
		t.Errorf("open: %d %q", code, body)
	}
	began := g.lock()
	for range 2 {
		if code, body := ask(); code != http.StatusServiceUnavailable || body != `{"errors":["Vault is sealed"]}`+"\n" {
			t.Errorf("closed: %d %q", code, body)
		}
	}
	back, turned := g.unlock()
	if len(turned) != 2 || turned[0].Before(began) || turned[1].Before(turned[0]) || back.Before(turned[1]) {
		t.Errorf("from %s to %s these were turned away: %v", began, back, turned)
	}
	ask()
	if want := "PUT /v1/a%20b?list=true t"; !slices.Equal(seen, []string{want, want}) {
		t.Errorf("the store saw %q", seen)
	}
	g.lock()
	if _, turned := g.unlock(); len(turned) != 0 {
		t.Errorf("the notes do not begin anew: %v", turned)
	}
}

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
	server, err := pluginprovider.Start(dir, pluginName, pluginprovider.Options{Store: &store})
	testkit.Must(t, err)
	t.Cleanup(server.Stop)
	source, end, err := providerPackage(t.Context(), dir)
	testkit.Must(t, err)
	defer end()
	r, err := fetchRequest(p, "/target", pluginName, pluginParameters())
	testkit.Must(t, err)
	payload, err := source.Fetch(t.Context(), r)
	testkit.Must(t, err)
	bare, err := mountRequest(p, "/target")
	testkit.Must(t, err)
	if sent := server.Requests()[0]; !proto.Equal(sent, bare) {
		t.Errorf("the provider package sends\n%v\nand the bare call is\n%v", sent, bare)
	}
	answer, err := server.Mount(t.Context(), bare)
	testkit.Must(t, err)
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
	t.Cleanup(func() {
		testkit.Check(t, n.akeyless.Close())
	})
	f := newFloor(2, akeylessFloor(n.akeyless.URL()))
	defer f.close()
	count, err := akeylessStore{n.akeyless}.begin()
	testkit.Must(t, err)
	if _, err := f.run(t.Context(), n.pods("a", keyless, 3)); err != nil {
		t.Fatal(err)
	}
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
