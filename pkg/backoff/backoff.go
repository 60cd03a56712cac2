// Package backoff calculates the wait before a retry, and waits.
package backoff

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

const (
	// LongestWait is the longest wait within a call. If the wait is longer, the call
	// fails, and the caller tries again later.
	LongestWait = 5 * time.Second
	// longestRetryAfter bounds the wait that a server can ask for.
	longestRetryAfter = 10 * time.Minute
	// mostDoublings keeps the shift within a Duration.
	mostDoublings = 16
)

// Delay returns the wait before retry n, counted from 0. It begins with first and
// doubles each time, up to longest. chance, from 0 to 1, shortens it by up to a half, so
// that callers that failed at the same time do not retry at the same time.
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

// WorthWaiting reports whether the wait is at most LongestWait and ends before the
// caller's deadline.
func WorthWaiting(ctx context.Context, wait time.Duration) bool {
	deadline, limited := ctx.Deadline()
	return wait <= LongestWait && (!limited || time.Until(deadline) > wait)
}

// Sleep waits until d has passed or ctx ends, and returns an error if ctx ended.
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
