package session

import "sync"

// maxRemembered bounds the entries that edits of classes can leave.
const maxRemembered = 4096

// Memory remembers facts from the store's answers. If there are too many, it drops all of
// them: that is rare, and those in use are learnt again at once. The zero value is ready
// for use.
type Memory[K comparable, V any] struct {
	mu    sync.Mutex
	known map[K]V
}

// Get returns the value of a key.
func (m *Memory[K, V]) Get(key K) (V, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	v, ok := m.known[key]
	return v, ok
}

// Has reports whether a key has a value.
func (m *Memory[K, V]) Has(key K) bool {
	_, ok := m.Get(key)
	return ok
}

// Set sets the value of a key.
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
