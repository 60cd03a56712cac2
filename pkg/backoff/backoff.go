// Package backoff says how long to wait before the next try, and waits.
package backoff

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

const (
	// LongestWait is how long a pause may be for a caller to sit it out. A
	// caller that would have to wait longer is told to come back.
	LongestWait = 5 * time.Second
	// longestRetryAfter bounds what a server can make us believe.
	longestRetryAfter = 10 * time.Minute
	// mostDoublings keeps the shift within a Duration.
	mostDoublings = 16
)

// Delay is the wait before retry n, counted from 0. It begins with first,
// doubles each time up to longest, and a chance from 0 to 1 takes up to half of
// it away, so that callers that failed together do not come back together.
func Delay(first, longest time.Duration, n int, chance float64) time.Duration {
	d := min(min(first, longest)<<min(max(n, 0), mostDoublings), longest)
	return d - time.Duration(chance*float64(d)/2)
}

// ParseRetryAfter reads the header: seconds, or an HTTP date.
func ParseRetryAfter(text string, now time.Time) time.Duration {
	wait := time.Duration(0)
	if seconds, err := strconv.Atoi(text); err == nil {
		wait = time.Duration(min(seconds, int(longestRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), longestRetryAfter)
}

// WorthWaiting tells whether the caller is still there after the wait, and
// better served by it than by coming back later.
func WorthWaiting(ctx context.Context, wait time.Duration) bool {
	deadline, limited := ctx.Deadline()
	return wait <= LongestWait && (!limited || time.Until(deadline) > wait)
}

// Sleep waits, but not for a caller that has gone.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fault.Ended(ctx)
	}
}
