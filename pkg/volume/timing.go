package volume

import (
	"math/rand/v2"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/backoff"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
)

const (
	// firstRetry is the pause after the first failed refresh; it doubles with
	// every further one, up to the volume's interval.
	firstRetry = 2 * time.Second
	// shortestWait keeps a store that says "look again now" from being asked
	// without a pause.
	shortestWait = time.Second
	// editSpread is over how long the volumes of an edited class are spread.
	editSpread = time.Second
	// overdueSpread is over how long, at the most, the refreshes are spread
	// that fell due while no driver ran, and overdueShare over which part of
	// the time that they have.
	overdueSpread = 10 * time.Second
	overdueShare  = 0.1
	// jitterShare is the part of a wait that is left to chance, so that
	// volumes published together do not stay together.
	jitterShare = 0.05
)

// nextDue is the pure rule for the refresh after a success: the provider's
// word where it gave one, else the interval. Chance (0 to 1) only ever
// brings it forward, so that nothing is staler than was promised.
func nextDue(now, refreshAt time.Time, interval time.Duration, chance float64) time.Time {
	wait := interval
	if !refreshAt.IsZero() {
		wait = max(refreshAt.Sub(now), shortestWait)
	}
	return now.Add(wait - time.Duration(float64(wait)*jitterShare*chance))
}

// retryDue is the pure rule for the refresh after a failure: when the store
// itself says, or else an exponential pause, half of it left to chance and
// never longer than the interval. After the store's own time the volumes come
// spread over a quarter of it.
func retryDue(now time.Time, failures int, interval time.Duration, err error, chance float64) time.Time {
	if after := fault.RetryAfter(err); after > 0 {
		return now.Add(after + time.Duration(float64(after)*chance/4))
	}
	return now.Add(backoff.Delay(firstRetry, max(interval, firstRetry), failures-1, chance))
}

// credentialsDue is when the credentials in a volume need the next look after a
// failure: at their own due time and, once that has passed, after half of the
// time that the next of them has left. It is zero where none can be saved.
func credentialsDue(now, dueAt time.Time, ends []time.Time) time.Time {
	if dueAt.After(now) {
		return dueAt
	}
	var next time.Time
	for _, end := range ends {
		if left := end.Sub(now); left > 0 {
			next = clock.Earliest(next, now.Add(max(left/2, firstRetry)))
		}
	}
	return next
}

// capDue brings a retry forward to the time when the credentials in the volume
// are due, zero for none.
func capDue(due, now, endsDue time.Time) time.Time {
	if endsDue.IsZero() {
		return due
	}
	if soonest := now.Add(shortestWait); endsDue.Before(soonest) {
		endsDue = soonest
	}
	if endsDue.Before(due) {
		return endsDue
	}
	return due
}

// dueAfterRestart is the pure rule for the first refresh by a new process: at
// the time on record. What fell due meanwhile comes spread over a part of its
// interval, and of what its credentials have left to live: also a driver that
// is restarted again and again must come to renew them. Where the record is from
// the future the clock was set back, and no time in it means anything: the
// volume is not left alone for longer than an interval.
func dueAfterRestart(now time.Time, rec *Progress, chance float64) time.Time {
	if latest := now.Add(rec.Interval); rec.RefreshedAt.After(now) && rec.DueAt.After(latest) {
		return latest
	}
	if rec.DueAt.After(now) {
		return rec.DueAt
	}
	wait := rec.Interval
	for _, end := range rec.Ends {
		wait = min(wait, max(0, end.Sub(now)))
	}
	spread := min(overdueSpread, time.Duration(float64(wait)*overdueShare))
	return now.Add(time.Duration(float64(spread) * chance))
}

// chance is a number from 0 to 1.
func chance() float64 { return rand.Float64() }
