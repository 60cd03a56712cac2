package session

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// isRefusal reports whether the store refused, certainly or not: another attempt does no
// harm.
func isRefusal(err error) bool {
	return err != nil && (fault.Of(err) == fault.Denied || fault.Of(err) == fault.Unverified)
}

// SureAfter is the time after the first refusal at which another one is certain. A server
// that is behind the others has caught up by then.
const SureAfter = 5 * time.Second

// doubt records a refusal of a live volume. It returns how long to wait before the next
// attempt, and zero if the refusal is certain: the first one was SureAfter ago, without an
// answer since.
func (v *volume) doubt(id string, now time.Time) time.Duration {
	first, ok := v.doubts.Get(id)
	if !ok || first.After(now) {
		first = now
		v.doubts.Set(id, now)
	}
	return max(0, first.Add(SureAfter).Sub(now))
}

// unverified returns the error for a refusal that is not certain, after which no files are
// removed. It says when to try again.
func unverified(err error, after time.Duration) error {
	out := fault.New(fault.Unverified, "%w; the server may not know of the login yet, so this counts as a denial when it is repeated in %s", err, after.Round(time.Second))
	out.RetryAfter = max(after, time.Second)
	return out
}
