package session_test

import (
	"errors"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

func TestBreaker(t *testing.T) {
	down := fault.New(fault.Unavailable, "down")
	type step struct {
		after   time.Duration
		record  session.Outcome
		place   string
		retry   time.Duration
		admit   bool // what Admit says afterwards
		waiting time.Duration
	}
	for name, steps := range map[string][]step{
		"three outages open it": {
			{record: session.Outage, admit: true}, {record: session.Outage, admit: true},
			{record: session.Outage, admit: false, waiting: time.Second},
		},
		"an answer closes it": {
			{record: session.Outage, admit: true}, {record: session.Outage, admit: true}, {record: session.Outage, admit: false, waiting: time.Second},
			{record: session.Answered, admit: true}, {record: session.Outage, admit: true},
		},
		"an answer between starts the count anew": {
			{record: session.Outage, admit: true}, {record: session.Outage, admit: true}, {record: session.Answered, admit: true},
			{record: session.Outage, admit: true}, {record: session.Outage, admit: true},
		},
		"what says nothing changes nothing": {
			{record: session.Outage, admit: true}, {record: session.Outage, admit: true}, {record: session.NothingSaid, admit: true},
			{record: session.Outage, admit: false, waiting: time.Second},
		},
		"one probe in a second": {
			{record: session.Outage, admit: true}, {record: session.Outage, admit: true}, {record: session.Outage, admit: false, waiting: time.Second},
			{after: time.Second, record: session.NothingSaid, admit: true},
			{record: session.NothingSaid, admit: false, waiting: 800 * time.Millisecond},
		},
		"Retry-After is honoured": {
			{record: session.Outage, admit: true}, {record: session.Outage, admit: true},
			{record: session.Outage, retry: 20 * time.Second, admit: false, waiting: 20 * time.Second},
		},
		"but bounded": {
			{record: session.Outage, admit: true}, {record: session.Outage, admit: true},
			{record: session.Outage, retry: time.Hour, admit: false, waiting: time.Minute},
		},
		"one broken place is no outage": {
			{record: session.BrokenPlace, place: "a", admit: true}, {record: session.BrokenPlace, place: "a", admit: true},
			{record: session.BrokenPlace, place: "a", admit: true}, {record: session.BrokenPlace, place: "a", admit: true},
			{record: session.BrokenPlace, place: "a", admit: true}, {record: session.BrokenPlace, place: "a", admit: true},
		},
		"five are": {
			{record: session.BrokenPlace, place: "a", admit: true}, {record: session.BrokenPlace, place: "b", admit: true},
			{record: session.BrokenPlace, place: "c", admit: true}, {record: session.BrokenPlace, place: "d", admit: true},
			{record: session.BrokenPlace, place: "e", admit: false, waiting: time.Second},
		},
		"a broken place after an outage is an answer": {
			{record: session.Outage, admit: true}, {record: session.Outage, admit: true}, {record: session.Outage, admit: false, waiting: time.Second},
			{record: session.BrokenPlace, place: "a", admit: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b session.Breaker
			now := start
			for i, s := range steps {
				now = now.Add(s.after)
				b.Record(now, s.record, s.place, s.retry, down)
				err := b.Admit(now, 0, "elsewhere")
				if (err == nil) != s.admit {
					t.Fatalf("step %d: admitted %v, want %v", i, err == nil, s.admit)
				}
				if wait := fault.RetryAfter(err); wait != s.waiting {
					t.Errorf("step %d: wait %v, want %v", i, wait, s.waiting)
				}
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
	var b session.Breaker
	fail := func(at time.Duration) { b.Record(start.Add(at), session.Outage, "p", 0, down) }
	admitted := func(at time.Duration) bool { return b.Admit(start.Add(at), 0.5, "p") == nil }

	fail(0)
	fail(0)
	b.Record(start, session.Answered, "p", 0, nil)
	fail(0)
	fail(0)
	if !admitted(0) {
		t.Fatal("open after less than three outages in a row")
	}
	fail(0)
	err := b.Admit(start, 0.5, "p")
	if fault.Of(err) != fault.Unavailable || !errors.Is(err, down) || !errors.Is(err, session.ErrNotAsked) || fault.RetryAfter(err) != 2*time.Second {
		t.Fatalf("not open after three: %v, again after %s", err, fault.RetryAfter(err))
	}
	passed := 0
	for ms := range 60_000 {
		if at := time.Duration(ms) * time.Millisecond; admitted(at) {
			passed++
			fail(at)
		}
	}
	if passed < 50 || passed > 61 {
		t.Errorf("%d probes in a minute", passed)
	}
	if !admitted(61 * time.Second) {
		t.Fatal("no probe after a minute")
	}
	b.Record(start.Add(61*time.Second), session.Answered, "p", 0, nil)
	for range 5 {
		if !admitted(61 * time.Second) {
			t.Fatal("not closed by an answer")
		}
	}
}

func TestBrokenPlaces(t *testing.T) {
	down := fault.New(fault.Unavailable, "boom")
	var b session.Breaker
	for range 50 {
		b.Record(start, session.BrokenPlace, "database/creds/a", 0, down)
	}
	if err := b.Admit(start, 0, "kv1/a"); err != nil {
		t.Errorf("one broken place is not an outage: %v", err)
	}
	if b.Admit(start, 0, "database/creds/a") == nil {
		t.Error("the broken place itself is left alone")
	}
	if b.Admit(start.Add(time.Second), 0, "database/creds/a") != nil {
		t.Error("no probe of the broken place")
	}
	for _, p := range []string{"b", "c", "d", "e"} {
		b.Record(start, session.BrokenPlace, p, 0, down)
	}
	if b.Admit(start, 0, "z") == nil {
		t.Error("five places broken in a row are")
	}
	if b.Admit(start.Add(2*time.Second), 0, "z") != nil {
		t.Error("no probe")
	}
	b.Record(start.Add(2*time.Second), session.Answered, "b", 0, nil)
	if b.Admit(start.Add(2*time.Second), 0, "z") != nil {
		t.Error("not closed by an answer")
	}
}

func TestBreakerHonoursRetryAfter(t *testing.T) {
	slow := fault.New(fault.RateLimited, "slow down")
	var b session.Breaker
	for range 3 {
		b.Record(start, session.Outage, "p", 10*time.Second, slow)
	}
	if b.Admit(start.Add(9*time.Second), 0, "z") == nil || b.Admit(start.Add(10*time.Second), 0, "z") != nil {
		t.Error("it must open for as long as the server asked")
	}
	for range 3 {
		b.Record(start, session.Outage, "p", time.Hour, slow)
	}
	if b.Admit(start.Add(time.Minute), 0, "z") != nil {
		t.Error("a server must not shut itself off for an hour")
	}
}

func TestAdvice(t *testing.T) {
	advised := func(b *session.Breaker, failure error, place string) time.Duration {
		b.Advise(failure, start, 0.5, place)
		return fault.RetryAfter(failure)
	}
	var b session.Breaker
	if got := advised(&b, fault.New(fault.Unavailable, "down"), "p"); got != 0 {
		t.Errorf("closed, but to come back after %s", got)
	}
	for range 3 {
		b.Record(start, session.BrokenPlace, "p", 0, fault.New(fault.Unavailable, "boom"))
	}
	if got := advised(&b, fault.New(fault.Unavailable, "boom"), "p"); got != 2*time.Second {
		t.Errorf("at a broken place: after %s", got)
	}
	if got := advised(&b, fault.New(fault.Unavailable, "boom"), "q"); got != 0 {
		t.Errorf("at another place: after %s", got)
	}
	for range 3 {
		b.Record(start, session.Outage, "q", 10*time.Second, fault.New(fault.Unavailable, "down"))
	}
	if got := advised(&b, fault.New(fault.Unavailable, "down"), "q"); got != 11*time.Second {
		t.Errorf("open: after %s", got)
	}
	own := fault.New(fault.RateLimited, "slow down")
	own.RetryAfter = 77 * time.Second
	if got := advised(&b, own, "q"); got != 77*time.Second {
		t.Errorf("the store's own word became %s", got)
	}
}
