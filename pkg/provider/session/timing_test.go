package session

import (
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// TestTwoThirdsOfAnyLife has ends as far as X.509 can write them: twice as long
// a life is more than a Duration holds.
func TestTwoThirdsOfAnyLife(t *testing.T) {
	for name, end := range map[string]time.Time{
		"15 s":      epoch.Add(15 * time.Second),
		"a day":     epoch.AddDate(0, 0, 1),
		"100 years": epoch.AddDate(100, 0, 0),
		"147 years": epoch.AddDate(147, 0, 0),
		"200 years": epoch.AddDate(200, 0, 0),
		"300 years": epoch.AddDate(300, 0, 0),
		"9999":      time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	} {
		life := end.Sub(epoch)
		for _, chance := range []float64{0, 0.5, 1} {
			due := twoThirds(epoch, end, chance)
			if share := due.Sub(epoch).Seconds() / life.Seconds(); share < 0.58 || share > 0.67 {
				t.Errorf("%s, chance %v: due at %.2f of the life", name, chance, share)
			}
			if isDue(due, end, epoch.Add(life/3)) || !isDue(due, end, due) {
				t.Errorf("%s, chance %v: not due when it should be, or too early", name, chance)
			}
		}
		for _, at := range []time.Time{AfterChange(epoch, end, 1), AfterChange(epoch, end, 0)} {
			if at.Before(end) || at.Sub(end) > time.Minute {
				t.Errorf("%s: asked %s after the change", name, at.Sub(end))
			}
		}
	}
}

func TestNextIssue(t *testing.T) {
	for life, want := range map[time.Duration]time.Duration{
		-time.Hour: 5 * time.Second, 0: 5 * time.Second, time.Second: 5 * time.Second,
		3 * time.Second: 1500 * time.Millisecond, 5 * time.Second: 2500 * time.Millisecond,
		15 * time.Second: 5 * time.Second, time.Hour: 5 * time.Second, 1<<63 - 1: 5 * time.Second,
	} {
		if got := nextIssue(epoch, life).Sub(epoch); got != want {
			t.Errorf("a life of %s: next issue after %s, want %s", life, got, want)
		}
		if due := twoThirds(epoch, epoch.Add(life), 1); life >= 3*time.Second && nextIssue(epoch, life).After(due) {
			t.Errorf("a life of %s is not replaced in time", life)
		}
	}
}

func TestDoubts(t *testing.T) {
	at := func(s int) time.Time { return epoch.Add(time.Duration(s) * time.Second) }
	var v volume
	for _, step := range []struct {
		at   int
		id   string
		want time.Duration
	}{{0, "a", 5 * time.Second}, {3, "a", 2 * time.Second}, {4, "b", 5 * time.Second}, {5, "a", 0}, {60, "a", 0}, {60, "b", 0}} {
		if got := v.doubt(step.id, at(step.at)); got != step.want {
			t.Errorf("%s refused at %d s: ask again in %s, want %s", step.id, step.at, got, step.want)
		}
	}
	v.doubts.Forget("a")
	if v.doubt("a", at(70)) == 0 {
		t.Error("a refusal counts although there was an answer since the last one")
	}
	if got := v.doubt("a", at(10)); got != 5*time.Second {
		t.Errorf("the clock was set back: ask again in %s", got)
	}
	err := unverified(fault.New(fault.Denied, "permission denied"), 2*time.Second)
	if fault.Of(err) != fault.Unverified || fault.RetryAfter(err) != 2*time.Second {
		t.Errorf("%s after %s: %v", fault.Of(err), fault.RetryAfter(err), err)
	}
}
