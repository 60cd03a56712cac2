package session

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
)

// everything is the id for all requests of an identity whose login was refused.
const everything = ""

// cache has the last answers that a volume or an identity got, by the id of the request,
// and the time of the last refusal of each. An answer from before a refusal is not given
// to other volumes; the class decides whether it stays in the files that have it. The
// zero value is ready for use, without a budget.
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

// newCache makes the cache of an owner. The answers of a volume stay until they are
// replaced. Shared answers are dropped when the memory is needed. An answer for which
// there is no room is not cached.
func newCache(b *budget.Budget, o budget.Owner) *cache {
	return &cache{budget: b, owner: o}
}

// last returns the last answer, unless the store has refused the request since; nil if
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

// stored returns the last answer, even if the store has refused the request since. Only
// the files that have the answer may use it.
func (c *cache) stored(id string) *Reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k, ok := c.byID[id]; ok {
		return k.reading
	}
	return nil
}

// put adds an answer, unless there is one to a later request. It returns false if there
// was no room for it.
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
	return c.budget.AcquireCache(c.owner, k.reading.Size(), func() { c.forget(id, k) })
}

// insert adds an answer, and returns those that it replaces. If there is no room for the
// answer, insert removes the older one too.
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

// forget drops an answer whose memory the budget needs.
func (c *cache) forget(id string, k *cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k.gone = true
	if c.byID[id] == k {
		delete(c.byID, id)
	}
}

// release releases memory. The caller does not hold a lock.
func release(over []*cached) {
	for _, k := range over {
		if k != nil {
			k.charge.Release()
		}
	}
}

// refuse records that the store refused a request, or everything.
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

// allows reports whether an answer, requested at a time, is newer than every refusal of
// the request.
func (c *cache) allows(id string, asked time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.isAllowed(id, asked)
}

// isAllowed is allows for a caller that holds mu.
func (c *cache) isAllowed(id string, asked time.Time) bool {
	return asked.After(c.refused[id]) && asked.After(c.refused[everything])
}

// dropRefused drops the answers from before a refusal.
func (c *cache) dropRefused() {
	c.drop(func(id string, rd *Reading) bool { return !c.isAllowed(id, rd.Asked) })
}

// retain drops all answers and refusals but the wanted.
func (c *cache) retain(wanted map[string]bool) {
	c.drop(func(id string, _ *Reading) bool { return !wanted[id] })
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.refused, func(id string, _ time.Time) bool { return id != everything && !wanted[id] })
}

// close drops all answers, and those that arrive later.
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

// all returns all answers, refused or not.
func (c *cache) all() map[string]*Reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[string]*Reading, len(c.byID))
	for id, k := range c.byID {
		all[id] = k.reading
	}
	return all
}

// refusals returns the times of the last refusals.
func (c *cache) refusals() map[string]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.refused)
}
