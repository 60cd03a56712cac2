package endpoint_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/stores"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// of is the first tenant, at a place of the root namespace.
func of(place string) endpoint.Caller { return endpoint.Caller{Tenant: "shop", Path: place} }

func TestBreaker(t *testing.T) {
	down := fault.New(fault.Unavailable, "down")
	type step struct {
		after   time.Duration
		record  endpoint.Outcome
		place   string
		retry   time.Duration
		admit   bool // what Admit says afterwards
		waiting time.Duration
	}
	for name, steps := range map[string][]step{
		"three outages open it": {
			{record: endpoint.Outage, admit: true}, {record: endpoint.Outage, admit: true},
			{record: endpoint.Outage, admit: false, waiting: time.Second},
		},
		"an answer closes it": {
			{record: endpoint.Outage, admit: true}, {record: endpoint.Outage, admit: true}, {record: endpoint.Outage, admit: false, waiting: time.Second},
			{record: endpoint.Answered, admit: true}, {record: endpoint.Outage, admit: true},
		},
		"an answer between starts the count anew": {
			{record: endpoint.Outage, admit: true}, {record: endpoint.Outage, admit: true}, {record: endpoint.Answered, admit: true},
			{record: endpoint.Outage, admit: true}, {record: endpoint.Outage, admit: true},
		},
		"what says nothing changes nothing": {
			{record: endpoint.Outage, admit: true}, {record: endpoint.Outage, admit: true}, {record: endpoint.LocalFailure, admit: true},
			{record: endpoint.Outage, admit: false, waiting: time.Second},
		},
		"one probe in a second": {
			{record: endpoint.Outage, admit: true}, {record: endpoint.Outage, admit: true}, {record: endpoint.Outage, admit: false, waiting: time.Second},
			{after: time.Second, record: endpoint.LocalFailure, admit: true},
			{record: endpoint.LocalFailure, admit: false, waiting: 800 * time.Millisecond},
		},
		"Retry-After is honoured": {
			{record: endpoint.Outage, admit: true}, {record: endpoint.Outage, admit: true},
			{record: endpoint.Outage, retry: 20 * time.Second, admit: false, waiting: 20 * time.Second},
		},
		"but bounded": {
			{record: endpoint.Outage, admit: true}, {record: endpoint.Outage, admit: true},
			{record: endpoint.Outage, retry: time.Hour, admit: false, waiting: time.Minute},
		},
		"one broken place is no outage": {
			{record: endpoint.BrokenPath, place: "a", admit: true}, {record: endpoint.BrokenPath, place: "a", admit: true},
			{record: endpoint.BrokenPath, place: "a", admit: true}, {record: endpoint.BrokenPath, place: "a", admit: true},
			{record: endpoint.BrokenPath, place: "a", admit: true}, {record: endpoint.BrokenPath, place: "a", admit: true},
		},
		"nor are six, where others are not broken": {
			{record: endpoint.BrokenPath, place: "a", admit: true}, {record: endpoint.BrokenPath, place: "b", admit: true},
			{record: endpoint.BrokenPath, place: "c", admit: true}, {record: endpoint.BrokenPath, place: "d", admit: true},
			{record: endpoint.BrokenPath, place: "e", admit: true}, {record: endpoint.BrokenPath, place: "f", admit: true},
		},
		"nor is what gives no answer": {
			{record: endpoint.Unanswered, place: "a", admit: true}, {record: endpoint.Unanswered, place: "a", admit: true},
			{record: endpoint.Unanswered, place: "b", admit: true}, {record: endpoint.Unanswered, place: "c", admit: true},
			{record: endpoint.Unanswered, place: "d", admit: true}, {record: endpoint.Unanswered, place: "e", admit: true},
		},
		"no connection opens it": {
			{record: endpoint.Unreachable, admit: true}, {record: endpoint.Unreachable, admit: true},
			{record: endpoint.Unreachable, admit: false, waiting: time.Second},
			{record: endpoint.Answered, admit: true},
		},
		"a broken place after an outage is an answer": {
			{record: endpoint.Outage, admit: true}, {record: endpoint.Outage, admit: true}, {record: endpoint.Outage, admit: false, waiting: time.Second},
			{record: endpoint.BrokenPath, place: "a", admit: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b endpoint.Breaker
			now := start
			for i, s := range steps {
				now = now.Add(s.after)
				b.Record(now, s.record, of(s.place), s.retry, down)
				err := b.Admit(now, 0, of("elsewhere"))
				if (err == nil) != s.admit {
					t.Fatalf("step %d: admitted %v, want %v", i, err == nil, s.admit)
				}
				testkit.Equal(t, fmt.Sprintf("step %d: wait", i), fault.RetryAfter(err), s.waiting)
				if err != nil && (fault.Of(err) != fault.Unavailable || !errors.Is(err, down)) {
					t.Errorf("step %d: %v", i, err)
				}
			}
		})
	}
}

// TestOutageOfAMinute counts the probes of a minute in which all fails.
func TestOutageOfAMinute(t *testing.T) {
	down := fault.New(fault.Unavailable, "down")
	var b endpoint.Breaker
	fail := func(at time.Duration) { b.Record(start.Add(at), endpoint.Outage, of("p"), 0, down) }
	admitted := func(at time.Duration) bool { return b.Admit(start.Add(at), 0.5, of("p")) == nil }

	fail(0)
	fail(0)
	b.Record(start, endpoint.Answered, of("p"), 0, nil)
	fail(0)
	fail(0)
	if !admitted(0) {
		t.Fatal("open after less than three outages in a row")
	}
	fail(0)
	err := b.Admit(start, 0.5, of("p"))
	if fault.Of(err) != fault.Unavailable || !errors.Is(err, down) || !fault.NotAsked(err) || fault.RetryAfter(err) != time.Second {
		t.Fatalf("not open after three: %v, again after %s", err, fault.RetryAfter(err))
	}
	passed := 0
	for ms := range 60_000 {
		if at := time.Duration(ms) * time.Millisecond; admitted(at) {
			passed++
			fail(at)
		}
	}
	if passed < 45 || passed > 55 { // one a second at first, one in two seconds in the end
		t.Errorf("%d probes in a minute", passed)
	}
	if !admitted(62 * time.Second) {
		t.Fatal("no probe after a minute")
	}
	b.Record(start.Add(62*time.Second), endpoint.Answered, of("p"), 0, nil)
	for range 5 {
		if !admitted(62 * time.Second) {
			t.Fatal("not closed by an answer")
		}
	}
}

func TestBrokenPlaces(t *testing.T) {
	down := fault.New(fault.Unavailable, "boom")
	var b endpoint.Breaker
	for range 50 {
		b.Record(start, endpoint.BrokenPath, of("database/creds/a"), 0, down)
	}
	if err := b.Admit(start, 0, of("kv1/a")); err != nil {
		t.Errorf("one broken place is not an outage: %v", err)
	}
	if b.Admit(start, 0, of("database/creds/a")) == nil {
		t.Error("the broken place itself is left alone")
	}
	if b.Admit(start.Add(time.Second), 0, of("database/creds/a")) != nil {
		t.Error("no probe of the broken place")
	}
	for _, p := range []string{"b", "c"} {
		b.Record(start, endpoint.BrokenPath, of(p), 0, down)
	}
	if b.Admit(start, 0, of("b")) == nil {
		t.Error("three paths broken in a row are left alone together")
	}
	if b.Admit(start, 0, of("z")) != nil {
		t.Error("another place is held up")
	}
	if b.Admit(start.Add(2*time.Second), 0, of("b")) != nil {
		t.Error("no probe")
	}
	if b.Admit(start.Add(2*time.Second), 0, of("c")) == nil {
		t.Error("a probe of each")
	}
	b.Record(start.Add(2*time.Second), endpoint.Answered, of("b"), 0, nil)
	if b.Admit(start.Add(2*time.Second), 0, of("c")) != nil {
		t.Error("not closed by an answer")
	}
	if b.Admit(start.Add(2*time.Second), 0, of("database/creds/a")) != nil {
		t.Error("the place that failed often waits for its own probe alone")
	}
}

// TestTenantsAndBreaker lets tenants meet failures, and checks which requests are blocked.
func TestTenantsAndBreaker(t *testing.T) {
	caller := func(tenant, namespace, place string) endpoint.Caller {
		return endpoint.Caller{Tenant: tenant, Namespace: namespace, Path: place}
	}
	type met struct {
		endpoint.Outcome
		endpoint.Caller
	}
	times := func(n int, o endpoint.Outcome, c endpoint.Caller) (list []met) {
		for range n {
			list = append(list, met{o, c})
		}
		return list
	}
	many := func(n int, o endpoint.Outcome, tenant string) (list []met) {
		for i := range n {
			list = append(list, met{o, caller(tenant, "", fmt.Sprint("bad/", i))})
		}
		return list
	}
	for name, tc := range map[string]struct {
		met        []met
		held, free []endpoint.Caller
	}{
		"one tenant's hanging path": {
			met:  times(9, endpoint.Unanswered, caller("evil", "", "db/slow")),
			held: []endpoint.Caller{caller("evil", "", "db/slow")},
			free: []endpoint.Caller{caller("evil", "", "kv/a"), caller("good", "", "kv/a"), caller("good", "", "db/slow")},
		},
		"one tenant's many hanging paths": {
			met:  many(100, endpoint.Unanswered, "evil"),
			held: []endpoint.Caller{caller("evil", "", "bad/7"), caller("evil", "", "bad/8")},
			free: []endpoint.Caller{caller("evil", "", "kv/a"), caller("good", "", "bad/7"), caller("good", "", "kv/a")},
		},
		"one tenant's many broken paths": {
			met:  many(100, endpoint.BrokenPath, "evil"),
			held: []endpoint.Caller{caller("evil", "", "bad/7")},
			free: []endpoint.Caller{caller("evil", "", "kv/a"), caller("good", "", "bad/7"), caller("good", "", "kv/a")},
		},
		"two tenants' broken paths": {
			met:  append(many(50, endpoint.BrokenPath, "evil"), many(50, endpoint.Unanswered, "worse")...),
			held: []endpoint.Caller{caller("evil", "", "bad/7"), caller("worse", "", "bad/7")},
			free: []endpoint.Caller{caller("good", "", "bad/7"), caller("good", "", "kv/a"), caller("evil", "", "kv/a")},
		},
		"one tenant is turned away": {
			met:  times(9, endpoint.Outage, caller("evil", "", "kv/a")),
			held: []endpoint.Caller{caller("evil", "", "kv/a"), caller("evil", "", "kv/b")},
			free: []endpoint.Caller{caller("good", "", "kv/a"), caller("evil", "team", "kv/a")},
		},
		"several tenants are": {
			met:  append(times(2, endpoint.Outage, caller("a", "", "kv/a")), times(1, endpoint.Outage, caller("b", "", "kv/b"))...),
			held: []endpoint.Caller{caller("a", "", "kv/a"), caller("b", "", "kv/c"), caller("c", "", "kv/a")},
			free: []endpoint.Caller{caller("a", "team", "kv/a")},
		},
		"but one has an answer": {
			met: slices.Concat(times(2, endpoint.Outage, caller("a", "", "kv/a")), times(2, endpoint.Outage, caller("b", "", "kv/b")),
				times(1, endpoint.Answered, caller("c", "", "kv/a")), times(2, endpoint.Outage, caller("b", "", "kv/b"))),
			held: []endpoint.Caller{caller("b", "", "kv/a")},
			free: []endpoint.Caller{caller("a", "", "kv/a"), caller("c", "", "kv/a")},
		},
		"a sealed namespace": {
			met:  append(times(3, endpoint.Outage, caller("a", "team", "kv/a")), times(3, endpoint.Outage, caller("b", "team", "kv/b"))...),
			held: []endpoint.Caller{caller("a", "team", "kv/a"), caller("c", "team", "kv/a")},
			free: []endpoint.Caller{caller("a", "", "kv/a"), caller("c", "other", "kv/a")},
		},
		"no connection": {
			met:  times(3, endpoint.Unreachable, caller("a", "", "kv/a")),
			held: []endpoint.Caller{caller("a", "", "kv/a"), caller("b", "team", "kv/b")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b endpoint.Breaker
			for _, m := range tc.met {
				b.Record(start, m.Outcome, m.Caller, 0, fault.New(fault.Unavailable, "the words for %s", m.Tenant))
			}
			for _, c := range tc.held {
				if b.Admit(start, 0, c) == nil {
					t.Errorf("%+v is not held up", c)
				}
			}
			for _, c := range tc.free {
				if err := b.Admit(start, 0, c); err != nil {
					t.Errorf("%+v is held up: %v", c, err)
				}
			}
		})
	}
}

// What a place answered to one tenant is told to no other.
func TestBreakerTellsATenantItsOwnFailure(t *testing.T) {
	var b endpoint.Breaker
	for i, tenant := range []string{"a", "b", "a", "b"} {
		b.Record(start, endpoint.BrokenPath, endpoint.Caller{Tenant: tenant, Path: fmt.Sprint(i / 2)}, 0, fault.New(fault.Unavailable, "the words for %s", tenant))
	}
	for _, tenant := range []string{"a", "b"} {
		err := b.Admit(start, 0, endpoint.Caller{Tenant: tenant, Path: "0"})
		if err == nil || !strings.HasPrefix(err.Error(), "the words for "+tenant+" (") {
			t.Errorf("tenant %s is told: %v", tenant, err)
		}
	}
}

// TestLongOutage has a fleet of nodes meet an outage at the same moment: the
// longer it lasts, the fewer probes there are, and they come one by one.
func TestLongOutage(t *testing.T) {
	const nodes = 500
	down := fault.New(fault.Unavailable, "down")
	random := rand.New(rand.NewPCG(1, 2))
	minutes, tenths := make([]int, 20), make([]int, 20*600)
	for range nodes {
		var b endpoint.Breaker
		for range 3 {
			b.Record(start, endpoint.Outage, of("p"), 0, down)
		}
		for now := time.Duration(0); now < 20*time.Minute; {
			if err := b.Admit(start.Add(now), random.Float64(), of("p")); err == nil {
				b.Record(start.Add(now), endpoint.Outage, of("p"), 0, down)
				minutes[now/time.Minute]++
				tenths[now/(100*time.Millisecond)]++
			}
			now += fault.RetryAfter(b.Admit(start.Add(now), 0, of("p")))
		}
	}
	most := slices.Max(tenths[19*600:])
	if got := minutes[0]; got < 40*nodes || got > 60*nodes {
		t.Errorf("%d probes in the first minute of %d nodes", got, nodes)
	}
	if got := minutes[19]; got < nodes || got > 3*nodes {
		t.Errorf("%d probes in the 20th minute of %d nodes", got, nodes)
	}
	if most > 12 { // 1.7 on average
		t.Errorf("%d probes at once", most)
	}
}

// Classes choose any names: the breaker's memory stays bounded.
func TestBreakerForgets(t *testing.T) {
	down := fault.New(fault.Unavailable, "down")
	var b endpoint.Breaker
	for i := range 20_000 {
		b.Record(start, endpoint.BrokenPath, endpoint.Caller{Tenant: "evil", Namespace: fmt.Sprint(i % 700), Path: fmt.Sprint(i)}, 0, down)
	}
	if n := b.Known(); n > 5000 {
		t.Errorf("%d tenants and paths are known", n)
	}
	for i := range 20_000 {
		b.Record(start, endpoint.Answered, endpoint.Caller{Tenant: "evil", Namespace: fmt.Sprint(i % 700), Path: fmt.Sprint(i)}, 0, nil)
	}
	testkit.Equal(t, "tenants and paths that are known after answers", b.Known(), 0)
}

func TestBreakerHonoursRetryAfter(t *testing.T) {
	slow := fault.New(fault.RateLimited, "slow down")
	var b endpoint.Breaker
	for range 3 {
		b.Record(start, endpoint.Outage, of("p"), 10*time.Second, slow)
	}
	if b.Admit(start.Add(9*time.Second), 0, of("z")) == nil || b.Admit(start.Add(10*time.Second), 0, of("z")) != nil {
		t.Error("it must open for as long as the server asked")
	}
	for range 3 {
		b.Record(start, endpoint.Outage, of("p"), time.Hour, slow)
	}
	if b.Admit(start.Add(time.Minute), 0, of("z")) != nil {
		t.Error("a server must not shut itself off for an hour")
	}
}

func TestAdvice(t *testing.T) {
	advised := func(b *endpoint.Breaker, failure error, place string) time.Duration {
		b.Advise(failure, start, of(place))
		return fault.RetryAfter(failure)
	}
	var b endpoint.Breaker
	testkit.Equal(t, "closed: come back after", advised(&b, fault.New(fault.Unavailable, "down"), "p"), 0)
	for range 3 {
		b.Record(start, endpoint.BrokenPath, of("p"), 0, fault.New(fault.Unavailable, "boom"))
	}
	testkit.Equal(t, "at a broken place: come back after", advised(&b, fault.New(fault.Unavailable, "boom"), "p"), time.Second)
	testkit.Equal(t, "at another place: come back after", advised(&b, fault.New(fault.Unavailable, "boom"), "q"), 0)
	for range 3 {
		b.Record(start, endpoint.Outage, of("q"), 10*time.Second, fault.New(fault.Unavailable, "down"))
	}
	testkit.Equal(t, "open: come back after", advised(&b, fault.New(fault.Unavailable, "down"), "q"), 10*time.Second)
	own := fault.New(fault.RateLimited, "slow down")
	own.RetryAfter = 77 * time.Second
	testkit.Equal(t, "the store's own word", advised(&b, own, "q"), 77*time.Second)
}

func TestCircuits(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	down := fault.New(fault.Unavailable, "down")
	record := func(b *endpoint.Breaker, o endpoint.Outcome, tenant, place string) {
		for range 3 {
			b.Record(now, o, endpoint.Caller{Namespace: "team", Tenant: tenant, Path: place + "\nof its engine"}, 0, down)
		}
	}
	for name, c := range map[string]struct {
		make func(b *endpoint.Breaker)
		want []string
	}{
		"none":   {func(b *endpoint.Breaker) { record(b, endpoint.Answered, "shop", "a") }, nil},
		"path":   {func(b *endpoint.Breaker) { record(b, endpoint.BrokenPath, "shop", "a") }, []string{"Path team shop a"}},
		"tenant": {func(b *endpoint.Breaker) { record(b, endpoint.Outage, "shop", "a") }, []string{"Tenant team shop "}},
		"all tenants": {
			func(b *endpoint.Breaker) {
				record(b, endpoint.Outage, "shop", "a")
				record(b, endpoint.Outage, "bank", "b")
			},
			[]string{"StoreNamespace team  ", "Tenant team bank ", "Tenant team shop "},
		},
		"paths together": {
			func(b *endpoint.Breaker) {
				for _, path := range []string{"a", "b", "c"} {
					b.Record(now, endpoint.BrokenPath, endpoint.Caller{Namespace: "team", Tenant: "shop", Path: path}, 0, down)
				}
			},
			[]string{"FailedPaths team shop "},
		},
		"server": {func(b *endpoint.Breaker) { record(b, endpoint.Unreachable, "shop", "a") }, []string{"Server   "}},
	} {
		t.Run(name, func(t *testing.T) {
			b := &endpoint.Breaker{}
			c.make(b)
			var got []string
			open, all := b.Circuits(10)
			for _, o := range open {
				got = append(got, fmt.Sprintf("%s %s %s %s", o.Scope, o.Namespace, o.Tenant, o.Path))
				if o.Failures < 3 || !o.Since.Equal(now) || !o.ProbeAt.After(now) || o.Last != "down" {
					t.Errorf("%+v", o)
				}
			}
			if !slices.Equal(got, c.want) || all != len(c.want) {
				t.Errorf("%d circuits %q, want %q", all, got, c.want)
			}
		})
	}
}

func TestCircuitsAreBounded(t *testing.T) {
	b := &endpoint.Breaker{}
	now := time.Now()
	for i := range 100 {
		for range 3 {
			b.Record(now, endpoint.BrokenPath, endpoint.Caller{Tenant: "shop", Path: fmt.Sprint(i)}, 0, fault.New(fault.Unavailable, "down"))
		}
	}
	open, all := b.Circuits(stores.MaxCircuits)
	if len(open) != stores.MaxCircuits || all != 101 { // and the paths together
		t.Errorf("%d of %d", len(open), all)
	}
}
