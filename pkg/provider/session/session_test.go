package session_test

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

var start = time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)

func TestTiming(t *testing.T) {
	hour := start.Add(time.Hour)
	for name, c := range map[string]struct{ got, want time.Time }{
		"two thirds":               {session.TwoThirds(start, hour, 0), start.Add(40 * time.Minute)},
		"earlier by chance":        {session.TwoThirds(start, hour, 1), start.Add(40*time.Minute - 288*time.Second)},
		"not at once":              {session.TwoThirds(start, start.Add(time.Second), 1), start.Add(time.Second*2/3 - 80*time.Millisecond)},
		"earliest, without zeroes": {clock.Earliest(time.Time{}, hour, start, time.Time{}), start},
		"earliest of nothing":      {clock.Earliest(time.Time{}), time.Time{}},
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
