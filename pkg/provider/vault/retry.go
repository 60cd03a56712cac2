package vault

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

const (
	defaultRetryBase = 250 * time.Millisecond
	maxRetryPause    = 4 * time.Second
	// longestWait is how long a Retry-After may be to be waited for while a
	// caller waits; beyond it the caller is told to come back.
	longestWait = 5 * time.Second
	// longestRetryAfter bounds what a server can make us believe.
	longestRetryAfter = 10 * time.Minute
)

// pause is the wait before retry number n (from 0): exponential, half of it
// left to chance, and never less than the server asked for.
func pause(base time.Duration, n int, retryAfter time.Duration, chance float64) time.Duration {
	d := min(base<<min(n, 16), maxRetryPause)
	return max(d/2+time.Duration(float64(d/2)*chance), retryAfter)
}

// parseRetryAfter reads seconds or an HTTP date.
func parseRetryAfter(text string, now time.Time) time.Duration {
	if text == "" {
		return 0
	}
	if seconds, err := strconv.Atoi(text); err == nil {
		return bounded(time.Duration(min(max(seconds, 0), 1<<20)) * time.Second)
	}
	if at, err := http.ParseTime(text); err == nil {
		return bounded(at.Sub(now))
	}
	return 0
}

func bounded(d time.Duration) time.Duration { return min(max(d, 0), longestRetryAfter) }

// mayPass tells whether a status is one that a moment may mend.
func mayPass(status int) bool {
	switch {
	case status == http.StatusPreconditionFailed, status == http.StatusTooManyRequests:
		return true
	case status == http.StatusNotImplemented:
		return false
	}
	return status >= 500
}

// untouched tells whether a status says that the request was turned away
// before it had an effect: no active node, a quota, a replica that lags.
func untouched(status int) bool {
	switch status {
	case http.StatusPreconditionFailed, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return true
	}
	return false
}

// sleep waits, but not for a caller that has gone.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return gaveUp(ctx)
	}
}
