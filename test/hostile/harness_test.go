package main

import (
	"reflect"
	"testing"
	"time"
)

func TestParseLimit(t *testing.T) {
	for values, want := range map[string]int64{
		"linux: {driver: {resources: {limits: {memory: 192Mi}}}}": 192 << 20,
		"linux: {driver: {resources: {limits: {memory: 1G}}}}":    1e9,
		"linux: {driver: {resources: {limits: {memory: 0}}}}":     0,
		"linux: {driver: {resources: {limits: {cpu: 1}}}}":        0,
		"linux: [": 0,
	} {
		got, err := parseLimit([]byte(values))
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v; want %d", values, got, err, want)
		}
	}
	if limit, err := chartLimit(); err != nil || limit < 64<<20 {
		t.Errorf("the chart's limit is read as %d: %v", limit, err)
	}
}

func TestParseFlatKeyed(t *testing.T) {
	got := parseFlatKeyed("oom_kill_disable 0\nunder_oom 0\noom_kill 3\nbroken\nalso broken x\n")
	want := map[string]int64{"oom_kill_disable": 0, "under_oom": 0, "oom_kill": 3}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestLedger checks which refreshes count as missed.
func TestLedger(t *testing.T) {
	began := time.Now()
	at := func(seconds float64) time.Time { return began.Add(time.Duration(seconds * float64(time.Second))) }
	for name, tc := range map[string]struct {
		do     func(l *ledger)
		end    float64
		missed int
		worst  time.Duration
		open   int
	}{
		"in time":           {func(l *ledger) { l.wrote(1, at(0)); l.saw(1, at(4)) }, 100, 0, 4 * time.Second, 0},
		"before the answer": {func(l *ledger) { l.saw(1, at(0)); l.wrote(1, at(1)) }, 100, 0, 0, 0},
		"late":              {func(l *ledger) { l.wrote(1, at(0)); l.saw(1, at(6)) }, 100, 1, 6 * time.Second, 0},
		"never":             {func(l *ledger) { l.wrote(1, at(0)); l.wrote(2, at(3)) }, 100, 2, 0, 0},
		"skipped":           {func(l *ledger) { l.wrote(1, at(0)); l.wrote(2, at(3)); l.saw(2, at(4)) }, 100, 0, 4 * time.Second, 0},
		"still in time":     {func(l *ledger) { l.wrote(1, at(0)) }, 4, 0, 0, 1},
	} {
		l := newLedger(5 * time.Second)
		tc.do(l)
		missed, worst, open := l.sum(at(tc.end))
		if missed != tc.missed || worst != tc.worst || open != tc.open {
			t.Errorf("%s: %d missed, worst %s, %d open; want %d, %s, %d", name, missed, worst, open, tc.missed, tc.worst, tc.open)
		}
	}
}
