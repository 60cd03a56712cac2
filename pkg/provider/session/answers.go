package session

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/singleflight"
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
	if singleflight.IsOwn(err) {
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
	// Size is about how many bytes of memory it takes.
	Size() int64
}

// Answers are the last answers that a volume or an identity had, by what was
// asked, and when the store last refused each. What was answered before that is
// given to nobody any more. It stays in the files of the volumes that have it,
// which is for the class to say. The zero value is ready for use, and charges
// nobody for its memory.
type Answers[R Reading] struct {
	budget *budget.Budget
	owner  budget.Owner

	mu      sync.Mutex
	byID    map[string]*kept[R]
	refused map[string]time.Time
	closed  bool
}

// kept is an answer and its memory.
type kept[R Reading] struct {
	reading R
	charge  *budget.Charge
	gone    bool
}

// NewAnswers makes the Answers of an owner. Those of a volume stay until they
// are replaced. Those that volumes share, so that the store is asked once, are
// a cache: they go when the memory is needed. An answer that finds no room is
// not kept, and asked for again.
func NewAnswers[R Reading](b *budget.Budget, o budget.Owner) *Answers[R] {
	return &Answers[R]{budget: b, owner: o}
}

// Last is the last answer, unless the store refused it since; the zero value if
// there is none.
func (a *Answers[R]) Last(id string) (none R) {
	a.mu.Lock()
	k, ok := a.byID[id]
	ok = ok && a.allows(id, k.reading.AskedAt())
	a.mu.Unlock()
	if !ok {
		return none
	}
	k.charge.Used()
	return k.reading
}

// Held is the last answer, even if the store refused it since: for the files
// that have it, and nothing else.
func (a *Answers[R]) Held(id string) (none R) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if k, ok := a.byID[id]; ok {
		return k.reading
	}
	return none
}

// Keep keeps an answer, unless there is one that was asked for later. It tells
// whether there was room for it.
func (a *Answers[R]) Keep(id string, rd R) bool {
	k := &kept[R]{reading: rd}
	charge, err := a.charge(id, k)
	a.mu.Lock()
	k.charge = charge
	over := a.put(id, k, err)
	a.mu.Unlock()
	release(over)
	return err == nil
}

func (a *Answers[R]) charge(id string, k *kept[R]) (*budget.Charge, error) {
	if a.owner.Volume != "" {
		return a.budget.Acquire(a.owner, budget.Answers, k.reading.Size())
	}
	return a.budget.Keep(a.owner, k.reading.Size(), func() { a.forget(id, k) })
}

// put takes an answer in, and returns those that are not kept any more. An
// older one of the same is no substitute for an answer that found no room.
func (a *Answers[R]) put(id string, k *kept[R], refused error) (over []*kept[R]) {
	have, ok := a.byID[id]
	switch {
	case a.closed, k.gone, ok && have.reading.AskedAt().After(k.reading.AskedAt()):
		return []*kept[R]{k}
	case refused != nil:
		delete(a.byID, id)
		return []*kept[R]{have, k}
	case a.byID == nil:
		a.byID = map[string]*kept[R]{}
	case len(a.byID) >= maxRemembered:
		over = slices.Collect(maps.Values(a.byID))
		clear(a.byID)
		ok = false
	}
	if ok {
		over = append(over, have)
	}
	a.byID[id] = k
	return over
}

// forget drops an answer whose memory is needed otherwise.
func (a *Answers[R]) forget(id string, k *kept[R]) {
	a.mu.Lock()
	defer a.mu.Unlock()
	k.gone = true
	if a.byID[id] == k {
		delete(a.byID, id)
	}
}

// release gives memory back, without the lock.
func release[R Reading](over []*kept[R]) {
	for _, k := range over {
		if k != nil {
			k.charge.Release()
		}
	}
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
	a.drop(func(id string, rd R) bool { return !a.allows(id, rd.AskedAt()) })
}

// Retain forgets all but the wanted.
func (a *Answers[R]) Retain(wanted map[string]bool) {
	a.drop(func(id string, _ R) bool { return !wanted[id] })
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.refused, func(id string, _ time.Time) bool { return id != Everything && !wanted[id] })
}

// Close forgets all answers, and those that still come.
func (a *Answers[R]) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.drop(func(string, R) bool { return true })
}

func (a *Answers[R]) drop(which func(id string, rd R) bool) {
	var over []*kept[R]
	a.mu.Lock()
	maps.DeleteFunc(a.byID, func(id string, k *kept[R]) bool {
		if !which(id, k.reading) {
			return false
		}
		over = append(over, k)
		return true
	})
	a.mu.Unlock()
	release(over)
}

// All are the answers that are kept, refused or not.
func (a *Answers[R]) All() map[string]R {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make(map[string]R, len(a.byID))
	for id, k := range a.byID {
		all[id] = k.reading
	}
	return all
}

// Refusals are the moments of the last refusals.
func (a *Answers[R]) Refusals() map[string]time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.refused)
}
