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
	// shortestWait is the least pause, also if the provider wants a refresh at once.
	shortestWait = time.Second
	// eventSpread is the time over which the refreshes are spread that one event makes
	// due: the edit of a class, the return of a store.
	eventSpread = time.Second
	// askEvery is the mean time between two of a node's volumes that find out whether a
	// store that failed is asked again.
	askEvery = 100 * time.Millisecond
	// overdueSpread is the greatest time over which the refreshes are spread that
	// became due while no driver ran; overdueShare is the greatest part of the time
	// that is left for them.
	overdueSpread = 10 * time.Second
	overdueShare  = 0.1
	// jitterShare is the random part of a wait, so that volumes that were published at
	// the same time are refreshed at different times.
	jitterShare = 0.05
)

// eventDue returns when a refresh is due that an event makes due now.
func eventDue() time.Time { return time.Now().Add(time.Duration(float64(eventSpread) * chance())) }

// nextDue returns the time of the refresh after a success: refreshAt if the provider
// gave one, else after the interval. chance (0 to 1) makes it earlier and never later,
// so that no file is older than promised.
func nextDue(now, refreshAt time.Time, interval time.Duration, chance float64) time.Time {
	wait := interval
	if !refreshAt.IsZero() {
		wait = max(refreshAt.Sub(now), shortestWait)
	}
	return now.Add(wait - time.Duration(float64(wait)*jitterShare*chance))
}

// retryDue returns the time of the refresh after a failure: after the time that the
// provider named, spread over a quarter of it, or else after an exponential pause, half of
// it random and never longer than the interval. A volume whose store was not asked becomes
// due when the store returns. Until then it only has to be there if no other volume asks,
// so the more volumes the node has, the later it is due.
func retryDue(now time.Time, failures int, interval time.Duration, err error, volumes int, chance float64) time.Time {
	after, longest := fault.RetryAfter(err), max(interval, firstRetry)
	if after <= 0 {
		return now.Add(backoff.Delay(firstRetry, longest, failures-1, chance))
	}
	spread := after / 4
	if fault.NotAsked(err) {
		spread = max(spread, min(max(2*askEvery*time.Duration(volumes), firstRetry), longest))
	}
	return now.Add(after + time.Duration(float64(spread)*chance))
}

// credentialsDue returns when the credentials in a volume need the next refresh after a
// failure: at their due time or, if that has passed, after half of the time until the
// next of them expires. It returns zero if all of them have expired.
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

// capDue returns the earlier of a retry and the due time of the credentials, which is
// zero for none.
func capDue(due, now, endsDue time.Time) time.Time {
	if endsDue.IsZero() {
		return due
	}
	if soonest := now.Add(shortestWait); endsDue.Before(soonest) {
		endsDue = soonest
	}
	return clock.Earliest(due, endsDue)
}

// dueAfterRestart returns the time of the first refresh by a new process: the time on
// record. Refreshes that became due meanwhile are spread over a part of their interval
// and of the time until their credentials expire, so that a driver that is restarted
// again and again still renews them. If the record is from the future, the clock was
// set back, and the refresh comes within an interval.
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

// chance returns a random number from 0 to 1.
func chance() float64 { return rand.Float64() }
