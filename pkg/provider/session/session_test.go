package session_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

var start = time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)

func fixed() time.Time { return start }

// TestFlightConcerns has four callers want the same while the first's work
// ends in different ways.
func TestFlightConcerns(t *testing.T) {
	denied := fault.New(fault.Denied, "denied")
	for name, c := range map[string]struct {
		first error
		quit  bool // the first's caller goes
		runs  int
		fails int // of the other three
	}{
		"success":          {nil, false, 1, 0},
		"outage":           {fault.New(fault.Unavailable, "away"), false, 1, 3},
		"refused":          {denied, false, 1, 3},
		"own":              {session.Own(denied), false, 4, 0},
		"a defect":         {errors.New("defect"), false, 4, 0},
		"own, but outage":  {session.Own(fault.New(fault.Timeout, "slow")), false, 1, 3},
		"no token":         {fault.New(fault.NoToken, "none"), false, 4, 0},
		"the caller went":  {fault.New(fault.Timeout, "late"), true, 2, 0},
		"went and succeed": {nil, true, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var f session.Flights[string, int]
				gate := make(chan struct{})
				runs, fails := make(chan int, 10), make(chan error, 10)
				leader, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() {
					_, _, _ = f.Do(leader, "k", fixed, time.Time{}, func() (int, error) {
						runs <- 1
						<-gate
						if c.quit {
							cancel()
						}
						return 7, c.first
					})
				}()
				synctest.Wait()
				for range 3 {
					go func() {
						v, _, err := f.Do(t.Context(), "k", fixed, time.Time{}, func() (int, error) {
							runs <- 1
							time.Sleep(time.Second) // so that the others can board
							return 7, nil
						})
						if err == nil && v != 7 {
							err = errors.New("another value")
						}
						fails <- err
					}()
				}
				synctest.Wait()
				close(gate)
				failed := 0
				for range 3 {
					if <-fails != nil {
						failed++
					}
				}
				if len(runs) != c.runs || failed != c.fails {
					t.Errorf("%d runs and %d failures, want %d and %d", len(runs), failed, c.runs, c.fails)
				}
			})
		})
	}
}

func TestFlightSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f session.Flights[int, string]
		gate := make(chan struct{})
		go func() {
			_, _, _ = f.Do(t.Context(), 1, time.Now, time.Time{}, func() (string, error) { <-gate; return "old", nil })
		}()
		synctest.Wait()
		time.Sleep(time.Second)
		asked := time.Now()
		got := make(chan string, 1)
		go func() {
			time.Sleep(time.Second)
			v, led, _ := f.Do(t.Context(), 1, time.Now, asked, func() (string, error) { return "new", nil })
			if !led {
				t.Error("an answer from before was good enough")
			}
			got <- v
		}()
		time.Sleep(2 * time.Second)
		close(gate)
		if v := <-got; v != "new" {
			t.Errorf("got %q", v)
		}
	})
}

func TestFlightPassengerLeavesAndLeaderPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f session.Flights[int, int]
		gate := make(chan struct{})
		go func() {
			defer func() { _ = recover() }()
			_, _, _ = f.Do(t.Context(), 1, fixed, time.Time{}, func() (int, error) { <-gate; panic("defect") })
		}()
		synctest.Wait()
		gone, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("enough"))
		if _, _, err := f.Do(gone, 1, fixed, time.Time{}, nil); fault.Of(err) != fault.Canceled {
			t.Errorf("a passenger that left: %v", err)
		}
		close(gate)
		if v, _, err := f.Do(t.Context(), 1, fixed, time.Time{}, func() (int, error) { return 5, nil }); v != 5 || err != nil {
			t.Errorf("after a panic: %v, %v", v, err)
		}
	})
}

func TestPause(t *testing.T) {
	for _, c := range []struct {
		n      int
		after  time.Duration
		chance float64
		want   time.Duration
	}{
		{0, 0, 0, 50 * time.Millisecond}, {0, 0, 1, 100 * time.Millisecond}, {2, 0, 0.5, 300 * time.Millisecond},
		{100, 0, 1, 4 * time.Second}, {60, 0, 0, 2 * time.Second}, {0, 7 * time.Second, 0, 7 * time.Second},
	} {
		if got := session.Pause(100*time.Millisecond, c.n, c.after, c.chance); got != c.want {
			t.Errorf("pause %d after %v with %v is %v, want %v", c.n, c.after, c.chance, got, c.want)
		}
	}
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
		if got := session.ParseRetryAfter(text, start); got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
}

func TestWorthWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if !session.WorthWaiting(t.Context(), 4*time.Second) || session.WorthWaiting(t.Context(), 6*time.Second) {
			t.Error("without a deadline the limit is 5 s")
		}
		if session.WorthWaiting(soon, time.Second) || !session.WorthWaiting(soon, time.Millisecond) {
			t.Error("a caller that will be gone does not wait")
		}
		if err := session.Sleep(soon, time.Minute); fault.Of(err) != fault.Timeout {
			t.Errorf("sleeping past the caller's end: %v", err)
		}
	})
}

func TestTiming(t *testing.T) {
	hour := start.Add(time.Hour)
	for name, c := range map[string]struct{ got, want time.Time }{
		"two thirds":               {session.TwoThirds(start, hour, 0), start.Add(40 * time.Minute)},
		"earlier by chance":        {session.TwoThirds(start, hour, 1), start.Add(40*time.Minute - 288*time.Second)},
		"not at once":              {session.TwoThirds(start, start.Add(time.Second), 1), start.Add(time.Second*2/3 - 80*time.Millisecond)},
		"earliest, without zeroes": {session.Earliest(time.Time{}, hour, start, time.Time{}), start},
		"earliest of nothing":      {session.Earliest(time.Time{}), time.Time{}},
		"after a change, spread":   {session.AfterChange(start.Add(-time.Hour), start, 1), start.Add(12 * time.Second)},
		"after a change, soon":     {session.AfterChange(start.Add(-20*time.Second), start, 1), start.Add(3 * time.Second)},
		"after a change, past":     {session.AfterChange(start.Add(time.Hour), start, 1), start.Add(2 * time.Second)},
		"after a change":           {session.AfterChange(start.Add(-time.Hour), start, 0), start.Add(2 * time.Second)},
	} {
		if d := c.got.Sub(c.want); d < -time.Millisecond || d > time.Millisecond {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	due := start.Add(40 * time.Minute)
	if session.IsDue(due, hour, due.Add(-3*time.Minute)) || !session.IsDue(due, hour, due.Add(-2*time.Minute)) {
		t.Error("what is due in 12 % of the last third is due, and nothing before")
	}
	interval := start.Add(10 * time.Minute)
	if !session.GoodForOwn(start, interval, start.Add(8*time.Minute)) || session.GoodForOwn(start, interval, start.Add(9*time.Minute)) {
		t.Error("for its own volume an answer is good for nine tenths")
	}
	if !session.GoodForOthers(start, interval, start.Add(4*time.Minute)) || session.GoodForOthers(start, interval, start.Add(5*time.Minute)) {
		t.Error("for others it is good for half")
	}
}
