package session

import (
	"maps"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// Everything stands for all that an identity may ask, where its login was
// refused.
const Everything = ""

// Refused tells whether the store refused. A refusal that is not sure counts,
// since nothing is lost by asking again.
func Refused(err error) bool {
	return err != nil && (fault.Of(err) == fault.Denied || fault.Of(err) == fault.Unverified)
}

// NoteRefusal has nobody given any more what the store has just refused: not a
// new volume of the same identity, which has the shared answers, nor after a
// restart the one that was refused, whose own are kept for its files. That is
// what was asked for, by its id, or everything where it was the login.
func NoteRefusal[R Reading](err error, id string, now time.Time, own, shared *Answers[R]) {
	if IsOwn(err) {
		id = Everything
	}
	own.Refuse(id, now)
	shared.Refuse(id, now)
	shared.DropRefused()
}

// SureAfter is how long after the first refusal another one makes it certain.
// A server that is behind the others has caught up by then.
const SureAfter = 5 * time.Second

// Doubts are the refusals of one live volume that may not be the store's last
// word, by what was asked. The zero value is ready for use.
type Doubts struct {
	mu    sync.Mutex
	since map[string]time.Time
}

// Refused notes a refusal. It gives the time after which to ask again, and zero
// where the refusal is certain: nothing was answered since the first one, which
// was long enough ago.
func (d *Doubts) Refused(id string, now time.Time) time.Duration {
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

// Answered ends the doubts about what was asked.
func (d *Doubts) Answered(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.since, id)
}

// Unverified is a refusal that takes no files yet, and when to ask again.
func Unverified(err error, after time.Duration) error {
	out := fault.New(fault.Unverified, "%w; the server may not know of the login yet, so this counts as a denial when it is repeated in %s", err, after.Round(time.Second))
	out.RetryAfter = max(after, time.Second)
	return out
}

// Reading is an answer of the store, and never changes.
type Reading interface {
	// AskedAt is when it was asked for, before the request left.
	AskedAt() time.Time
}

// Answers are the last answers that a volume or an identity had, by what was
// asked, and when the store last refused each. What was answered before that is
// given to nobody any more. It stays in the files of the volumes that have it,
// which is for the class to say. The zero value is ready for use.
type Answers[R Reading] struct {
	mu      sync.Mutex
	byID    map[string]R
	refused map[string]time.Time
}

// Last is the last answer, unless the store refused it since; the zero value if
// there is none.
func (a *Answers[R]) Last(id string) (none R) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rd, ok := a.byID[id]
	if !ok || !a.allows(id, rd.AskedAt()) {
		return none
	}
	return rd
}

// Held is the last answer, even if the store refused it since: for the files
// that have it, and nothing else.
func (a *Answers[R]) Held(id string) R {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.byID[id]
}

// Keep keeps an answer, unless there is one that was asked for later.
func (a *Answers[R]) Keep(id string, rd R) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if have, ok := a.byID[id]; ok && have.AskedAt().After(rd.AskedAt()) {
		return
	}
	if a.byID == nil || len(a.byID) >= maxRemembered {
		a.byID = map[string]R{}
	}
	a.byID[id] = rd
}

// Refuse notes that the store refused what was asked, or Everything.
func (a *Answers[R]) Refuse(id string, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.refused) >= maxRemembered {
		clear(a.refused)
		id = Everything
	}
	if a.refused == nil {
		a.refused = map[string]time.Time{}
	}
	if at.After(a.refused[id]) {
		a.refused[id] = at
	}
}

// Allows tells whether an answer that was asked for at a moment is newer than
// any refusal of it.
func (a *Answers[R]) Allows(id string, asked time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.allows(id, asked)
}

func (a *Answers[R]) allows(id string, asked time.Time) bool {
	return asked.After(a.refused[id]) && asked.After(a.refused[Everything])
}

// DropRefused forgets the answers that nobody is given any more.
func (a *Answers[R]) DropRefused() {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.byID, func(id string, rd R) bool { return !a.allows(id, rd.AskedAt()) })
}

// Retain forgets all but the wanted.
func (a *Answers[R]) Retain(wanted map[string]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.byID, func(id string, _ R) bool { return !wanted[id] })
	maps.DeleteFunc(a.refused, func(id string, _ time.Time) bool { return id != Everything && !wanted[id] })
}

// All are the answers that are kept, refused or not.
func (a *Answers[R]) All() map[string]R {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.byID)
}

// Refusals are the moments of the last refusals.
func (a *Answers[R]) Refusals() map[string]time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.refused)
}
