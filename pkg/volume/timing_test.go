package volume

import (
	"errors"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestNextDue(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tc := range []struct {
		name      string
		refreshAt time.Time
		chance    float64
		want      time.Duration
	}{
		{"the interval", time.Time{}, 0, 100 * time.Second},
		{"chance brings it forward", time.Time{}, 1, 95 * time.Second},
		{"the provider's word", now.Add(10 * time.Second), 0, 10 * time.Second},
		{"a word in the past is not a busy loop", now.Add(-time.Hour), 0, shortestWait},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testkit.Equal(t, "due after", nextDue(now, tc.refreshAt, 100*time.Second, tc.chance).Sub(now), tc.want)
		})
	}
}

func TestRetryDue(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	plain := errors.New("down")
	asked := &fault.Error{Reason: fault.RateLimited, Err: plain, RetryAfter: 5 * time.Minute}
	notAsked := &fault.Error{Reason: fault.Unavailable, Err: plain, RetryAfter: 4 * time.Second, NotAsked: true}
	for _, tc := range []struct {
		name     string
		failures int
		err      error
		volumes  int
		chance   float64
		want     time.Duration
	}{
		{"first", 1, plain, 1, 0, 2 * time.Second},
		{"third", 3, plain, 1, 0, 8 * time.Second},
		{"half is left to chance", 3, plain, 1, 1, 4 * time.Second},
		{"never longer than the interval", 99, plain, 1, 0, time.Minute},
		{"unless the store asks", 1, asked, 1, 0, 5 * time.Minute},
		{"the store's word is spread, not doubled", 9, asked, 500, 1, 75 * time.Second * 5},
		{"not asked, alone", 9, notAsked, 1, 1, 6 * time.Second},
		{"not asked, with many", 1, notAsked, 110, 1, 26 * time.Second},
		{"not asked, first of many", 1, notAsked, 110, 0, 4 * time.Second},
		{"not asked, with very many", 1, notAsked, 5000, 1, 64 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testkit.Equal(t, "due after", retryDue(now, tc.failures, time.Minute, tc.err, tc.volumes, tc.chance).Sub(now), tc.want)
		})
	}
}

func TestCredentialsDue(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	in := func(d time.Duration) time.Time { return now.Add(d) }
	for _, tc := range []struct {
		name  string
		dueAt time.Time
		ends  []time.Time
		want  time.Time
	}{
		{"nothing held", time.Time{}, nil, time.Time{}},
		{"due ahead", in(time.Minute), []time.Time{in(90 * time.Second)}, in(time.Minute)},
		{"half of what is left", in(-time.Second), []time.Time{in(time.Hour), in(time.Minute)}, in(30 * time.Second)},
		{"no busy loop at the end", in(-time.Second), []time.Time{in(time.Millisecond)}, in(firstRetry)},
		{"what has ended is lost", in(-time.Minute), []time.Time{in(-time.Second), in(time.Hour)}, in(30 * time.Minute)},
		{"all has ended", in(-time.Minute), []time.Time{in(-time.Second)}, time.Time{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := credentialsDue(now, tc.dueAt, tc.ends); !got.Equal(tc.want) {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestCapDue(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	due := now.Add(time.Minute)
	for name, tc := range map[string]struct{ held, want time.Time }{
		"nothing held": {time.Time{}, due},
		"held longer":  {now.Add(time.Hour), due},
		"held shorter": {now.Add(10 * time.Second), now.Add(10 * time.Second)},
		"held no more": {now.Add(-time.Hour), now.Add(shortestWait)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := capDue(due, now, tc.held); !got.Equal(tc.want) {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestOverdueAfterRestart(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tc := range []struct {
		name     string
		due      time.Duration
		ends     time.Duration // 0 for never
		interval time.Duration
		chance   float64
		want     time.Duration
	}{
		{"overdue, first of all", -time.Hour, 0, time.Hour, 0, 0},
		{"overdue, last of all", -time.Hour, 0, time.Hour, 1, 10 * time.Second},
		{"due soon, as it would have been", 2 * time.Second, 0, time.Hour, 1, 2 * time.Second},
		{"due later", time.Minute, 0, time.Hour, 1, time.Minute},
		{"of a short interval", -time.Second, 0, 20 * time.Second, 1, 2 * time.Second},
		{"with an end that is far", -time.Second, time.Hour, time.Hour, 1, 10 * time.Second},
		{"with an end that is near", -time.Second, 3 * time.Second, time.Hour, 1, 300 * time.Millisecond},
		{"ended", -time.Hour, -time.Second, time.Hour, 1, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rec := &Progress{Interval: tc.interval, DueAt: now.Add(tc.due), RefreshedAt: now.Add(-2 * time.Hour)}
			if tc.ends != 0 {
				rec.Ends = []time.Time{now.Add(time.Hour), now.Add(tc.ends)}
			}
			testkit.Equal(t, "due after", dueAfterRestart(now, rec, tc.chance).Sub(now), tc.want)
		})
	}
}

func TestDueAfterRestart(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tc := range []struct {
		name           string
		dueAt, refresh time.Duration
		want           time.Duration
	}{
		{"as recorded", 30 * time.Second, -30 * time.Second, 30 * time.Second},
		{"a provider's word may be long", 24 * time.Hour, -time.Second, 24 * time.Hour},
		{"overdue", -time.Hour, -2 * time.Hour, 3 * time.Second},
		{"the clock was set back", 11 * time.Hour, 10 * time.Hour, time.Minute},
		{"by little", 30 * time.Second, 5 * time.Second, 30 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rec := &Progress{Interval: time.Minute, DueAt: now.Add(tc.dueAt), RefreshedAt: now.Add(tc.refresh)}
			testkit.Equal(t, "due after", dueAfterRestart(now, rec, 0.5).Sub(now), tc.want)
		})
	}
}
