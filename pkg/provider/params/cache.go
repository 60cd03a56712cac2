package params

import (
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
)

// Made is what a provider parses a class into.
type Made interface {
	// Size is the approximate size in memory in bytes.
	Size() int64
}

// Cache caches what a provider parsed from the classes of its volumes: for each class the state
// that was requested last, until no volume uses the class any more, or the budget evicts it. The
// zero value is empty.
type Cache[M Made] struct {
	Budget *budget.Budget // may be nil

	mu    sync.Mutex
	known map[object]*cached[M]
	users map[object]int    // number of volumes
	uses  map[string]object // by volume
}

// object is a class, whatever its state.
type object struct {
	ref class.Ref
	uid string
}

type cached[M Made] struct {
	version string
	made    M
	charge  *budget.Charge
	gone    bool
}

// Get parses a class for a volume, or returns the cached result. It does not cache failures, and
// parses a class without a resource version each time.
func (c *Cache[M]) Get(volume string, of *class.Class, parse func(*class.Class) (M, error)) (M, error) {
	if of.ResourceVersion == "" {
		return parse(of)
	}
	id := object{of.Ref, of.UID}
	if e := c.find(volume, id); e != nil && e.version == of.ResourceVersion {
		e.charge.Used()
		return e.made, nil
	}
	made, err := parse(of)
	if err == nil {
		c.keep(id, &cached[M]{version: of.ResourceVersion, made: made})
	}
	return made, err
}

// find records that the volume uses the class.
func (c *Cache[M]) find(volume string, id object) *cached[M] {
	c.mu.Lock()
	if c.known == nil {
		c.known, c.users, c.uses = map[object]*cached[M]{}, map[object]int{}, map[string]object{}
	}
	c.users[id]++ // before the volume leaves, which may use this class already
	over := c.leave(volume)
	c.uses[volume] = id
	e := c.known[id]
	c.mu.Unlock()
	over.release()
	return e
}

func (c *Cache[M]) keep(id object, e *cached[M]) {
	charge, err := c.Budget.AcquireCache(budget.Owner{Namespace: id.ref.Namespace}, e.made.Size(), func() { c.drop(id, e) })
	if err != nil {
		return // parsed again when needed
	}
	c.mu.Lock()
	e.charge = charge
	old := e
	if !e.gone && c.users[id] > 0 {
		old, c.known[id] = c.known[id], e
	}
	c.mu.Unlock()
	old.release()
}

// drop removes an entry that the budget evicts.
func (c *Cache[M]) drop(id object, e *cached[M]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e.gone = true
	if c.known[id] == e {
		delete(c.known, id)
	}
}

// Leave ends a volume's use of its class. The cache drops the class after its last volume.
func (c *Cache[M]) Leave(volume string) {
	c.mu.Lock()
	over := c.leave(volume)
	c.mu.Unlock()
	over.release()
}

// leave is called with mu held. The caller releases the charge of the result.
func (c *Cache[M]) leave(volume string) (over *cached[M]) {
	id, used := c.uses[volume]
	if !used {
		return nil
	}
	delete(c.uses, volume)
	if c.users[id]--; c.users[id] > 0 {
		return nil
	}
	over = c.known[id]
	delete(c.users, id)
	delete(c.known, id)
	return over
}

func (e *cached[M]) release() {
	if e != nil {
		e.charge.Release()
	}
}
