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

// doubts has the refusals of one live volume that are not certain yet: the time of the
// first one, by the id of the request. The zero value is ready for use.
type doubts struct{ since Memory[string, time.Time] }

// refused records a refusal. It returns how long to wait before the next attempt, and zero
// if the refusal is certain: the first one was SureAfter ago, without an answer since.
func (d *doubts) refused(id string, now time.Time) time.Duration {
	first, ok := d.since.Get(id)
	if !ok || first.After(now) {
		first = now
		d.since.Set(id, now)
	}
	return max(0, first.Add(SureAfter).Sub(now))
}

// answered forgets the refusals of a request.
func (d *doubts) answered(id string) { d.since.Forget(id) }

// unverified returns the error for a refusal that is not certain, after which no files are
// removed. It says when to try again.
func unverified(err error, after time.Duration) error {
	out := fault.New(fault.Unverified, "%w; the server may not know of the login yet, so this counts as a denial when it is repeated in %s", err, after.Round(time.Second))
	out.RetryAfter = max(after, time.Second)
	return out
}
