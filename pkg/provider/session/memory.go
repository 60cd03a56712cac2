package session

import "sync"

// maxRemembered bounds what edits of classes can leave behind.
const maxRemembered = 4096

// Memory remembers what the store's answers taught. Where it would grow too
// large it forgets everything: that is rare, and what is still used comes back
// at once. The zero value is ready for use.
type Memory[K comparable, V any] struct {
	mu    sync.Mutex
	known map[K]V
}

// Get is what is known of a key.
func (m *Memory[K, V]) Get(key K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.known[key]
	return v, ok
}

// Has tells whether anything is known of a key.
func (m *Memory[K, V]) Has(key K) bool {
	_, ok := m.Get(key)
	return ok
}

// Set remembers.
func (m *Memory[K, V]) Set(key K, v V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || len(m.known) >= maxRemembered {
		m.known = map[K]V{}
	}
	m.known[key] = v
}

// Forget drops a key.
func (m *Memory[K, V]) Forget(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.known, key)
}
