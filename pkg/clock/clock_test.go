package clock

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// A moment that was an hour away when it was written is as far away as the time
// that really passed leaves it, whatever became of the wall clock.
func TestRestored(t *testing.T) {
	const passed = 10 * time.Minute
	boot := func(since time.Duration, id string) Boot {
		return func() (time.Duration, string) { return since, id }
	}
	then := At(noon, boot(time.Hour, "a"))
	for name, c := range map[string]struct {
		then    Stamp
		wall    time.Time
		boot    Boot
		left    time.Duration
		forward time.Duration
	}{
		"clock not set":           {then, noon.Add(passed), boot(time.Hour+passed, "a"), 50 * time.Minute, 0},
		"set back":                {then, noon.Add(passed - 10*time.Hour), boot(time.Hour+passed, "a"), 50 * time.Minute, 0},
		"set forward":             {then, noon.Add(passed + 10*time.Hour), boot(time.Hour+passed, "a"), 50 * time.Minute, 10 * time.Hour},
		"suspended":               {then, noon.Add(9 * time.Hour), boot(10*time.Hour, "a"), -8 * time.Hour, 0},
		"another boot":            {then, noon.Add(passed), boot(time.Minute, "b"), 50 * time.Minute, 0},
		"another boot, set back":  {then, noon.Add(-10 * time.Hour), boot(time.Minute, "b"), time.Hour, 0},
		"no boot time":            {then, noon.Add(passed), nil, 50 * time.Minute, 0},
		"no boot time, set back":  {then, noon.Add(-10 * time.Hour), nil, time.Hour, 0},
		"boot time goes back":     {then, noon.Add(passed), boot(0, "a"), time.Hour, passed},
		"written without a stamp": {Stamp{}, noon.Add(passed), boot(time.Hour, "a"), 50 * time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			now := At(c.wall, c.boot)
			got := now.Restored(c.then)(noon.Add(time.Hour))
			if left := got.Sub(c.wall); left != c.left {
				t.Errorf("%s are left, want %s", left, c.left)
			}
			if forward := now.SetForward(c.then); forward != c.forward {
				t.Errorf("set forward by %s, want %s", forward, c.forward)
			}
			if !now.Restored(c.then)(time.Time{}).IsZero() {
				t.Error("no moment became one")
			}
		})
	}
}

// A restored moment has a monotonic part, and a written one has none.
func TestMonotonicPart(t *testing.T) {
	now := At(time.Now(), SinceBoot)
	if now.BootID == "" || now.Boot <= 0 {
		t.Fatalf("this node's boot is %+v", now)
	}
	at := now.Wall.Add(time.Hour)
	written := now.Written(at)
	if written != at.Round(0) || !now.Written(time.Time{}).IsZero() {
		t.Errorf("written as %v, want %v", written, at.Round(0))
	}
	testkit.Equal(t, "the restored time", now.Restored(now)(written), at)
}

type inner struct {
	At   time.Time
	Text string
	own  time.Time
}

type outer struct {
	inner
	Inner  inner
	Many   []*inner
	ByName map[string]time.Time
	None   *inner
	Bytes  []byte
}

func TestMap(t *testing.T) {
	in := outer{
		Inner: inner{noon, "a", noon}, Many: []*inner{{noon, "b", noon}, nil}, ByName: map[string]time.Time{"c": noon}, Bytes: []byte("d"),
	}
	out := Map(in, func(t time.Time) time.Time { return t.Add(time.Hour) })
	later := noon.Add(time.Hour)
	if out.Inner != (inner{later, "a", noon}) || *out.Many[0] != (inner{later, "b", noon}) || out.Many[1] != nil || !out.ByName["c"].Equal(later) || out.None != nil || string(out.Bytes) != "d" {
		t.Errorf("the copy is %+v", out)
	}
	if !in.Inner.At.Equal(noon) || !in.Many[0].At.Equal(noon) || !in.ByName["c"].Equal(noon) {
		t.Errorf("the original became %+v", in)
	}
}
