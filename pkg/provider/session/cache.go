package session

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
)

// Cacheable is an answer of the store, and never changes.
type Cacheable interface {
	// AskedAt is when it was asked for, before the request left.
	AskedAt() time.Time
	// Size is about how many bytes of memory it takes.
	Size() int64
}

// Cache has the last answers that a volume or an identity had, by what was
// asked, and when the store last refused each. What was answered before that is
// given to nobody any more. It stays in the files of the volumes that have it,
// which is for the class to say. The zero value is ready for use, and charges
// nobody for its memory.
type Cache[R Cacheable] struct {
	budget *budget.Budget
	owner  budget.Owner

	mu      sync.Mutex
	byID    map[string]*cached[R]
	refused map[string]time.Time
	closed  bool
}

// cached is an answer and its memory.
type cached[R Cacheable] struct {
	reading R
	charge  *budget.Charge
	gone    bool
}

// NewCache makes the Cache of an owner. Those of a volume stay until they
// are replaced. Those that volumes share, so that the store is asked once, are
// a cache: they go when the memory is needed. An answer that finds no room is
// not kept, and asked for again.
func NewCache[R Cacheable](b *budget.Budget, o budget.Owner) *Cache[R] {
	return &Cache[R]{budget: b, owner: o}
}

// Last is the last answer, unless the store refused it since; the zero value if
// there is none.
func (c *Cache[R]) Last(id string) (none R) {
	c.mu.Lock()
	k, ok := c.byID[id]
	ok = ok && c.allows(id, k.reading.AskedAt())
	c.mu.Unlock()
	if !ok {
		return none
	}
	k.charge.Used()
	return k.reading
}

// Stored is the last answer, even if the store refused it since: for the files
// that have it, and nothing else.
func (c *Cache[R]) Stored(id string) (none R) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k, ok := c.byID[id]; ok {
		return k.reading
	}
	return none
}

// Put keeps an answer, unless there is one that was asked for later. It tells
// whether there was room for it.
func (c *Cache[R]) Put(id string, rd R) bool {
	k := &cached[R]{reading: rd}
	charge, err := c.charge(id, k)
	c.mu.Lock()
	k.charge = charge
	over := c.put(id, k, err)
	c.mu.Unlock()
	release(over)
	return err == nil
}

func (c *Cache[R]) charge(id string, k *cached[R]) (*budget.Charge, error) {
	if c.owner.Volume != "" {
		return c.budget.Acquire(c.owner, budget.Answers, k.reading.Size())
	}
	return c.budget.Keep(c.owner, k.reading.Size(), func() { c.forget(id, k) })
}

// put takes an answer in, and returns those that are not kept any more. An
// older one of the same is no substitute for an answer that found no room.
func (c *Cache[R]) put(id string, k *cached[R], refused error) (over []*cached[R]) {
	have, ok := c.byID[id]
	switch {
	case c.closed, k.gone, ok && have.reading.AskedAt().After(k.reading.AskedAt()):
		return []*cached[R]{k}
	case refused != nil:
		delete(c.byID, id)
		return []*cached[R]{have, k}
	case c.byID == nil:
		c.byID = map[string]*cached[R]{}
	case len(c.byID) >= maxRemembered:
		over = slices.Collect(maps.Values(c.byID))
		clear(c.byID)
		ok = false
	}
	if ok {
		over = append(over, have)
	}
	c.byID[id] = k
	return over
}

// forget drops an answer whose memory is needed otherwise.
func (c *Cache[R]) forget(id string, k *cached[R]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k.gone = true
	if c.byID[id] == k {
		delete(c.byID, id)
	}
}

// release gives memory back, without the lock.
func release[R Cacheable](over []*cached[R]) {
	for _, k := range over {
		if k != nil {
			k.charge.Release()
		}
	}
}

// Refuse notes that the store refused what was asked, or Everything.
func (c *Cache[R]) Refuse(id string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.refused) >= maxRemembered {
		clear(c.refused)
		id = Everything
	}
	if c.refused == nil {
		c.refused = map[string]time.Time{}
	}
	if at.After(c.refused[id]) {
		c.refused[id] = at
	}
}

// Allows tells whether an answer that was asked for at a moment is newer than
// any refusal of it.
func (c *Cache[R]) Allows(id string, asked time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.allows(id, asked)
}

func (c *Cache[R]) allows(id string, asked time.Time) bool {
	return asked.After(c.refused[id]) && asked.After(c.refused[Everything])
}

// DropRefused forgets the answers that nobody is given any more.
func (c *Cache[R]) DropRefused() {
	c.drop(func(id string, rd R) bool { return !c.allows(id, rd.AskedAt()) })
}

// Retain forgets all but the wanted.
func (c *Cache[R]) Retain(wanted map[string]bool) {
	c.drop(func(id string, _ R) bool { return !wanted[id] })
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.refused, func(id string, _ time.Time) bool { return id != Everything && !wanted[id] })
}

// Close forgets all answers, and those that still come.
func (c *Cache[R]) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.drop(func(string, R) bool { return true })
}

func (c *Cache[R]) drop(which func(id string, rd R) bool) {
	var over []*cached[R]
	c.mu.Lock()
	maps.DeleteFunc(c.byID, func(id string, k *cached[R]) bool {
		if !which(id, k.reading) {
			return false
		}
		over = append(over, k)
		return true
	})
	c.mu.Unlock()
	release(over)
}

// All are the answers that are kept, refused or not.
func (c *Cache[R]) All() map[string]R {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[string]R, len(c.byID))
	for id, k := range c.byID {
		all[id] = k.reading
	}
	return all
}

// Refusals are the moments of the last refusals.
func (c *Cache[R]) Refusals() map[string]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.refused)
}
