package session

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/clock"
)

func TestTiming(t *testing.T) {
	hour := epoch.Add(time.Hour)
	for name, c := range map[string]struct{ got, want time.Time }{
		"two thirds":               {twoThirds(epoch, hour, 0), epoch.Add(40 * time.Minute)},
		"earlier by chance":        {twoThirds(epoch, hour, 1), epoch.Add(40*time.Minute - 288*time.Second)},
		"not at once":              {twoThirds(epoch, epoch.Add(time.Second), 1), epoch.Add(time.Second*2/3 - 80*time.Millisecond)},
		"earliest, without zeroes": {clock.Earliest(time.Time{}, hour, epoch, time.Time{}), epoch},
		"earliest of nothing":      {clock.Earliest(time.Time{}), time.Time{}},
		"after a change, spread":   {AfterChange(epoch.Add(-time.Hour), epoch, 1), epoch.Add(12 * time.Second)},
		"after a change, soon":     {AfterChange(epoch.Add(-20*time.Second), epoch, 1), epoch.Add(3 * time.Second)},
		"after a change, past":     {AfterChange(epoch.Add(time.Hour), epoch, 1), epoch.Add(2 * time.Second)},
		"after a change":           {AfterChange(epoch.Add(-time.Hour), epoch, 0), epoch.Add(2 * time.Second)},
	} {
		if d := c.got.Sub(c.want); d < -time.Millisecond || d > time.Millisecond {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	due := epoch.Add(40 * time.Minute)
	if isDue(due, hour, due.Add(-3*time.Minute)) || !isDue(due, hour, due.Add(-2*time.Minute)) {
		t.Error("what is due in 12 % of the last third is due, and nothing before")
	}
}
