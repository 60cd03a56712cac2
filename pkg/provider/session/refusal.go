package session

import (
	"errors"
	"sync"
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
// word, by what was asked. The zero value is ready for use.
type doubts struct {
	mu    sync.Mutex
	since map[string]time.Time
}

// refused notes a refusal. It gives the time after which to ask again, and zero
// where the refusal is certain: nothing was answered since the first one, which
// was long enough ago.
func (d *doubts) refused(id string, now time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	first, ok := d.since[id]
	if !ok || first.After(now) {
		if d.since == nil || len(d.since) >= maxRemembered {
			d.since = map[string]time.Time{}
		}
		first, d.since[id] = now, now
	}
	return max(0, first.Add(SureAfter).Sub(now))
}

// answered ends the doubts about what was asked.
func (d *doubts) answered(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.since, id)
}

// unverified is a refusal that takes no files yet, and when to ask again.
func unverified(err error, after time.Duration) error {
	out := fault.New(fault.Unverified, "%w; the server may not know of the login yet, so this counts as a denial when it is repeated in %s", err, after.Round(time.Second))
	out.RetryAfter = max(after, time.Second)
	return out
}

// NotServed marks the failure of a request for something that the store serves
// nothing of now. That is a mistake of an operator, or a server that is behind
// the others, and not the end of a secret: an optional object may be missing for
// it only where no file of the volume has it.
func NotServed(err error) error { return notServed{err} }

type notServed struct{ error }

func (n notServed) Unwrap() error { return n.error }

// IsNotServed tells whether a failure was marked so.
func IsNotServed(err error) bool {
	var n notServed
	return errors.As(err, &n)
}
