package backoff_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/backoff"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

var start = time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)

func TestDelay(t *testing.T) {
	for _, c := range []struct {
		n      int
		chance float64
		want   time.Duration
	}{
		{0, 1, 50 * time.Millisecond}, {0, 0, 100 * time.Millisecond}, {2, 0.5, 300 * time.Millisecond},
		{100, 0, 4 * time.Second}, {60, 1, 2 * time.Second}, {-1, 0, 100 * time.Millisecond},
	} {
		if got := backoff.Delay(100*time.Millisecond, 4*time.Second, c.n, c.chance); got != c.want {
			t.Errorf("delay %d with %v is %v, want %v", c.n, c.chance, got, c.want)
		}
	}
	testkit.Equal(t, "the longest delay", backoff.Delay(time.Minute, time.Second, 0, 0), time.Second)
}

func TestParseRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"": 0, "5": 5 * time.Second, "-1": 0, "99999999999": 0, "999999": 10 * time.Minute, "soon": 0,
		start.Add(time.Minute).Format("Mon, 02 Jan 2006 15:04:05 GMT"): time.Minute,
		start.Add(-time.Hour).Format("Mon, 02 Jan 2006 15:04:05 GMT"):  0,
	} {
		if text == "99999999999" {
			want = 10 * time.Minute
		}
		testkit.Equal(t, text, backoff.ParseRetryAfter(text, start), want)
	}
}

func TestWorthWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if !backoff.WorthWaiting(t.Context(), 4*time.Second) || backoff.WorthWaiting(t.Context(), 6*time.Second) {
			t.Error("without a deadline the limit is 5 s")
		}
		if backoff.WorthWaiting(soon, time.Second) || !backoff.WorthWaiting(soon, time.Millisecond) {
			t.Error("a caller that will be gone does not wait")
		}
		testkit.Fails(t, backoff.Sleep(soon, time.Minute), fault.Timeout)
	})
}
