// Package opened caches what Vault has decrypted, in memory only, so that repeated calls for the
// same seed make one request to Vault.
package opened

import (
	"bytes"
	"container/list"
	"crypto/sha256"
	"sync"
)

// Key identifies a ciphertext: its hash with all that is bound to it.
type Key [sha256.Size]byte

// Value is the decrypted value.
type Value struct {
	// Plaintext is secret, and belongs to the Value's owner.
	Plaintext []byte
	// Version is the version of the Transit key.
	Version int
	// Correlation is the request's id in Vault's audit log.
	Correlation string
}

// Wipe overwrites the plaintext.
func (v Value) Wipe() { clear(v.Plaintext) }

func (v Value) clone() Value {
	v.Plaintext = bytes.Clone(v.Plaintext)
	return v
}

// Cache has at most size values, those that were used last.
type Cache struct {
	most int

	mu     sync.Mutex
	known  map[Key]*list.Element
	recent list.List // of entry, the last used first
}

type entry struct {
	key   Key
	value Value
}

// New makes a cache.
func New(most int) *Cache { return &Cache{most: most, known: map[Key]*list.Element{}} }

// Get returns a copy.
func (c *Cache) Get(k Key) (Value, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.known[k]
	if !ok {
		return Value{}, false
	}
	c.recent.MoveToFront(e)
	return e.Value.(entry).value.clone(), true //nolint:forcetypeassert // all values of the list are entries
}

// Put stores a copy.
func (c *Cache) Put(k Key, v Value) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.known[k]; ok {
		c.drop(e)
	}
	c.known[k] = c.recent.PushFront(entry{k, v.clone()})
	for c.recent.Len() > c.most {
		c.drop(c.recent.Back())
	}
}

// Below drops what versions below the given one have encrypted, because Vault would not decrypt it
// any more.
func (c *Cache) Below(version int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.recent.Front(); e != nil; {
		next := e.Next()
		if e.Value.(entry).value.Version < version { //nolint:forcetypeassert // as above
			c.drop(e)
		}
		e = next
	}
}

// Wipe overwrites and drops all values.
func (c *Cache) Wipe() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.recent.Len() > 0 {
		c.drop(c.recent.Back())
	}
}

// Len is the number of values.
func (c *Cache) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.recent.Len()
}

// drop overwrites a value; the caller holds the mutex.
func (c *Cache) drop(e *list.Element) {
	x := c.recent.Remove(e).(entry) //nolint:forcetypeassert // as above
	x.value.Wipe()
	delete(c.known, x.key)
}
