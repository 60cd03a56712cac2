// Package bounded has a map with a bounded number of entries.
package bounded

import "sync"

// most is the bound of a Map without its own.
const most = 4096

// Map remembers what can be found out again. If there are too many entries, it drops all
// of them: that is rare, and those in use are soon there again. The zero value is ready
// for use. Its methods are safe for concurrent use.
type Map[K comparable, V any] struct {
	// Most bounds the entries; 0 means 4096.
	Most int

	mu      sync.Mutex
	entries map[K]V
}

// Get returns the value of a key.
func (m *Map[K, V]) Get(key K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.entries[key]
	return v, ok
}

// Has reports whether a key has a value.
func (m *Map[K, V]) Has(key K) bool {
	_, ok := m.Get(key)
	return ok
}

// Set sets the value of a key.
func (m *Map[K, V]) Set(key K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	bound := most
	if m.Most > 0 {
		bound = m.Most
	}
	if m.entries == nil || len(m.entries) >= bound {
		m.entries = map[K]V{}
	}
	m.entries[key] = v
}

// Forget drops a key.
func (m *Map[K, V]) Forget(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.entries, key)
}
