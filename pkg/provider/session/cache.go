package session

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
)

// everything stands for all that an identity may ask, where its login was
// refused.
const everything = ""

// cache has the last answers that a volume or an identity had, by what was
// asked, and when the store last refused each. What was answered before that is
// given to nobody any more. It stays in the files of the volumes that have it,
// which is for the class to say. The zero value is ready for use, and charges
// nobody for its memory.
type cache struct {
	budget *budget.Budget
	owner  budget.Owner

	mu      sync.Mutex
	byID    map[string]*cached
	refused map[string]time.Time
	closed  bool
}

// cached is an answer and its memory.
type cached struct {
	reading *Reading
	charge  *budget.Charge
	gone    bool
}

// newCache makes the cache of an owner. Those of a volume stay until they
// are replaced. Those that volumes share, so that the store is asked once, are
// a cache: they go when the memory is needed. An answer that finds no room is
// not kept, and asked for again.
func newCache(b *budget.Budget, o budget.Owner) *cache {
	return &cache{budget: b, owner: o}
}

// last is the last answer, unless the store refused it since; nil if
// there is none.
func (c *cache) last(id string) *Reading {
	c.mu.Lock()
	k, ok := c.byID[id]
	ok = ok && c.isAllowed(id, k.reading.Asked)
	c.mu.Unlock()
	if !ok {
		return nil
	}
	k.charge.Used()
	return k.reading
}

// stored is the last answer, even if the store refused it since: for the files
// that have it, and nothing else.
func (c *cache) stored(id string) *Reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k, ok := c.byID[id]; ok {
		return k.reading
	}
	return nil
}

// put keeps an answer, unless there is one that was asked for later. It tells
// whether there was room for it.
func (c *cache) put(id string, rd *Reading) bool {
	k := &cached{reading: rd}
	charge, err := c.charge(id, k)
	c.mu.Lock()
	k.charge = charge
	over := c.insert(id, k, err)
	c.mu.Unlock()
	release(over)
	return err == nil
}

func (c *cache) charge(id string, k *cached) (*budget.Charge, error) {
	if c.owner.Volume != "" {
		return c.budget.Acquire(c.owner, budget.Answers, k.reading.Size())
	}
	return c.budget.Keep(c.owner, k.reading.Size(), func() { c.forget(id, k) })
}

// insert takes an answer in, and returns those that are not kept any more. An
// older one of the same is no substitute for an answer that found no room.
func (c *cache) insert(id string, k *cached, refused error) (over []*cached) {
	have, ok := c.byID[id]
	switch {
	case c.closed, k.gone, ok && have.reading.Asked.After(k.reading.Asked):
		return []*cached{k}
	case refused != nil:
		delete(c.byID, id)
		return []*cached{have, k}
	case c.byID == nil:
		c.byID = map[string]*cached{}
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
func (c *cache) forget(id string, k *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k.gone = true
	if c.byID[id] == k {
		delete(c.byID, id)
	}
}

// release gives memory back, without the lock.
func release(over []*cached) {
	for _, k := range over {
		if k != nil {
			k.charge.Release()
		}
	}
}

// refuse notes that the store refused what was asked, or everything.
func (c *cache) refuse(id string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.refused) >= maxRemembered {
		clear(c.refused)
		id = everything
	}
	if c.refused == nil {
		c.refused = map[string]time.Time{}
	}
	if at.After(c.refused[id]) {
		c.refused[id] = at
	}
}

// allows tells whether an answer that was asked for at a moment is newer than
// any refusal of it.
func (c *cache) allows(id string, asked time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.isAllowed(id, asked)
}

// isAllowed is called with mu held.
func (c *cache) isAllowed(id string, asked time.Time) bool {
	return asked.After(c.refused[id]) && asked.After(c.refused[everything])
}

// dropRefused forgets the answers that nobody is given any more.
func (c *cache) dropRefused() {
	c.drop(func(id string, rd *Reading) bool { return !c.isAllowed(id, rd.Asked) })
}

// retain forgets all but the wanted.
func (c *cache) retain(wanted map[string]bool) {
	c.drop(func(id string, _ *Reading) bool { return !wanted[id] })
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.refused, func(id string, _ time.Time) bool { return id != everything && !wanted[id] })
}

// close forgets all answers, and those that still come.
func (c *cache) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.drop(func(string, *Reading) bool { return true })
}

func (c *cache) drop(which func(id string, rd *Reading) bool) {
	var over []*cached
	c.mu.Lock()
	maps.DeleteFunc(c.byID, func(id string, k *cached) bool {
		if !which(id, k.reading) {
			return false
		}
		over = append(over, k)
		return true
	})
	c.mu.Unlock()
	release(over)
}

// all are the answers that are kept, refused or not.
func (c *cache) all() map[string]*Reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[string]*Reading, len(c.byID))
	for id, k := range c.byID {
		all[id] = k.reading
	}
	return all
}

// refusals are the moments of the last refusals.
func (c *cache) refusals() map[string]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.refused)
}
