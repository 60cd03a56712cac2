package params

import (
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/class"
)

// maxCached bounds a Cache.
const maxCached = 512

// Cache holds what a provider made of classes, by the state of their objects.
// The zero value is empty.
type Cache[S any] struct {
	mu    sync.Mutex
	known map[state]S
}

type state struct {
	ref          class.Ref
	uid, version string
}

// Get makes something of a class, or finds it made. Failures are not kept. A
// class without a resource version, as from a directory of manifests, is made
// anew each time.
func (c *Cache[S]) Get(of *class.Class, parse func(*class.Class) (S, error)) (S, error) {
	if of.ResourceVersion == "" {
		return parse(of)
	}
	id := state{of.Ref, of.UID, of.ResourceVersion}
	c.mu.Lock()
	found, ok := c.known[id]
	c.mu.Unlock()
	if ok {
		return found, nil
	}
	made, err := parse(of)
	if err == nil {
		c.put(id, made)
	}
	return made, err
}

func (c *Cache[S]) put(id state, made S) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= maxCached {
		c.known = map[state]S{} // rare, and what is still used comes back at once
	}
	c.known[id] = made
}
