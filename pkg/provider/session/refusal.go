package session

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// isRefusal tells whether the store refused. A refusal that is not sure counts,
// since nothing is lost by asking again.
func isRefusal(err error) bool {
	return err != nil && (fault.Of(err) == fault.Denied || fault.Of(err) == fault.Unverified)
}

// SureAfter is how long after the first refusal another one makes it certain.
// A server that is behind the others has caught up by then.
const SureAfter = 5 * time.Second

// doubts are the refusals of one live volume that may not be the store's last
// word: when they began, by what was asked. The zero value is ready for use.
type doubts struct{ since Memory[string, time.Time] }

// refused notes a refusal. It gives the time after which to ask again, and zero
// where the refusal is certain: nothing was answered since the first one, which
// was long enough ago.
func (d *doubts) refused(id string, now time.Time) time.Duration {
	first, ok := d.since.Get(id)
	if !ok || first.After(now) {
		first = now
		d.since.Set(id, now)
	}
	return max(0, first.Add(SureAfter).Sub(now))
}

// answered ends the doubts about what was asked.
func (d *doubts) answered(id string) { d.since.Forget(id) }

// unverified is a refusal that takes no files yet, and when to ask again.
func unverified(err error, after time.Duration) error {
	out := fault.New(fault.Unverified, "%w; the server may not know of the login yet, so this counts as a denial when it is repeated in %s", err, after.Round(time.Second))
	out.RetryAfter = max(after, time.Second)
	return out
}
