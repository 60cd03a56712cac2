package session

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

const (
	longestPause = 4 * time.Second
	// LongestWait is how long a pause may be for a caller to sit it out. A
	// caller that would have to wait longer is told to come back.
	LongestWait = 5 * time.Second
	// longestRetryAfter bounds what a server can make us believe.
	longestRetryAfter = 10 * time.Minute
)

// Pause is the wait before retry n, counted from 0: it doubles each time, half
// of it is left to chance, and it is never less than the server asked for.
func Pause(base time.Duration, n int, retryAfter time.Duration, chance float64) time.Duration {
	half := min(min(base, longestPause)<<min(n, 16), longestPause) / 2
	return max(half+time.Duration(chance*float64(half)), retryAfter)
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

// Ended is why a context that is over ended, with the reason that it has for
// the caller: its cause may be any error.
func Ended(ctx context.Context) error {
	return fault.New(fault.Of(ctx.Err()), "%w", context.Cause(ctx))
}

// Sleep waits, but not for a caller that has gone.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return Ended(ctx)
	}
}
