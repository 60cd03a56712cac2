// Package cache has the last answers of a store to one volume or identity, and the times of
// its refusals.
package cache

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
)

// Everything is the id for all requests of an identity whose login was refused.
const Everything = ""

// most bounds the answers, and the refusals, that edits of classes can leave.
const most = 4096

// Answer is what a Cache has: its size in memory in bytes, and when the request for it was
// sent.
type Answer interface {
	Size() int64
	AskedAt() time.Time
}

// Cache has the last answers that a volume or an identity got, by the id of the request,
// and the time of the last refusal of each. An answer from before a refusal is not given
// to other volumes; the class decides whether it stays in the files that have it. The
// zero value is ready for use, without a budget.
type Cache[A Answer] struct {
	budget *budget.Budget
	owner  budget.Owner

	mu      sync.Mutex
	byID    map[string]*cached[A]
	refused map[string]time.Time
	closed  bool
}

// cached is an answer and its memory.
type cached[A Answer] struct {
	answer A
	charge *budget.Charge
	gone   bool
}

// New makes the cache of an owner. The answers of a volume stay until they are
// replaced. Shared answers are dropped when the memory is needed. An answer for which
// there is no room is not cached.
func New[A Answer](b *budget.Budget, o budget.Owner) *Cache[A] {
	return &Cache[A]{budget: b, owner: o}
}

// Last returns the last answer, unless the store has refused the request since; zero if
// there is none.
func (c *Cache[A]) Last(id string) (a A) {
	c.mu.Lock()
	k, ok := c.byID[id]
	ok = ok && c.isAllowed(id, k.answer.AskedAt())
	c.mu.Unlock()
	if !ok {
		return a
	}
	k.charge.Used()
	return k.answer
}

// Stored returns the last answer, even if the store has refused the request since. Only
// the files that have the answer may use it.
func (c *Cache[A]) Stored(id string) (a A) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k, ok := c.byID[id]; ok {
		a = k.answer
	}
	return a
}

// Put adds an answer, unless there is one to a later request. It returns false if there
// was no room for it.
func (c *Cache[A]) Put(id string, a A) bool {
	k := &cached[A]{answer: a}
	charge, err := c.charge(id, k)
	c.mu.Lock()
	k.charge = charge
	over := c.insert(id, k, err)
	c.mu.Unlock()
	release(over)
	return err == nil
}

func (c *Cache[A]) charge(id string, k *cached[A]) (*budget.Charge, error) {
	if c.owner.Volume != "" {
		return c.budget.Acquire(c.owner, budget.Answers, k.answer.Size())
	}
	return c.budget.AcquireCache(c.owner, k.answer.Size(), func() { c.forget(id, k) })
}

// insert adds an answer, and returns those that it replaces. If there is no room for the
// answer, insert removes the older one too.
func (c *Cache[A]) insert(id string, k *cached[A], refused error) (over []*cached[A]) {
	have, ok := c.byID[id]
	switch {
	case c.closed, k.gone, ok && have.answer.AskedAt().After(k.answer.AskedAt()):
		return []*cached[A]{k}
	case refused != nil:
		delete(c.byID, id)
		return []*cached[A]{have, k}
	case c.byID == nil:
		c.byID = map[string]*cached[A]{}
	case len(c.byID) >= most:
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
func (c *Cache[A]) forget(id string, k *cached[A]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k.gone = true
	if c.byID[id] == k {
		delete(c.byID, id)
	}
}

// release releases memory. The caller does not hold a lock.
func release[A Answer](over []*cached[A]) {
	for _, k := range over {
		if k != nil {
			k.charge.Release()
		}
	}
}

// Refuse records that the store refused a request, or everything.
func (c *Cache[A]) Refuse(id string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.refused) >= most {
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

// Allows reports whether an answer, requested at a time, is newer than every refusal of
// the request.
func (c *Cache[A]) Allows(id string, asked time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.isAllowed(id, asked)
}

// isAllowed is Allows for a caller that holds mu.
func (c *Cache[A]) isAllowed(id string, asked time.Time) bool {
	return asked.After(c.refused[id]) && asked.After(c.refused[Everything])
}

// DropRefused drops the answers from before a refusal.
func (c *Cache[A]) DropRefused() {
	c.drop(func(id string, a A) bool { return !c.isAllowed(id, a.AskedAt()) })
}

// Retain drops all answers and refusals but the wanted.
func (c *Cache[A]) Retain(wanted map[string]bool) {
	c.drop(func(id string, _ A) bool { return !wanted[id] })
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.refused, func(id string, _ time.Time) bool { return id != Everything && !wanted[id] })
}

// Close drops all answers, and those that arrive later.
func (c *Cache[A]) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.drop(func(string, A) bool { return true })
}

func (c *Cache[A]) drop(which func(id string, a A) bool) {
	var over []*cached[A]
	c.mu.Lock()
	maps.DeleteFunc(c.byID, func(id string, k *cached[A]) bool {
		if !which(id, k.answer) {
			return false
		}
		over = append(over, k)
		return true
	})
	c.mu.Unlock()
	release(over)
}

// All returns all answers, refused or not.
func (c *Cache[A]) All() map[string]A {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[string]A, len(c.byID))
	for id, k := range c.byID {
		all[id] = k.answer
	}
	return all
}

// Refusals returns the times of the last refusals.
func (c *Cache[A]) Refusals() map[string]time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.refused)
}
