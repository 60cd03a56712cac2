package session

import (
	"maps"
	"sync"
	"time"
)

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

// Reading is an answer of the store, and never changes.
type Reading interface {
	// AskedAt is when it was asked for, before the request left.
	AskedAt() time.Time
}

// Readings are the last answers, by what was asked. The zero value is ready
// for use.
type Readings[R Reading] struct {
	mu   sync.Mutex
	byID map[string]R
}

// Last is the last answer; the zero value if there is none.
func (s *Readings[R]) Last(id string) R {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// Keep keeps an answer, unless there is one that was asked for later.
func (s *Readings[R]) Keep(id string, rd R) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, ok := s.byID[id]; ok && have.AskedAt().After(rd.AskedAt()) {
		return
	}
	if s.byID == nil || len(s.byID) >= maxRemembered {
		s.byID = map[string]R{}
	}
	s.byID[id] = rd
}

// Replace puts an answer in the place of whatever there is.
func (s *Readings[R]) Replace(id string, rd R) {
	s.Drop(id)
	s.Keep(id, rd)
}

// Drop forgets an answer.
func (s *Readings[R]) Drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, id)
}

// Retain drops the answers to what is not wanted any more.
func (s *Readings[R]) Retain(wanted map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.byID, func(id string, _ R) bool { return !wanted[id] })
}

// All is a copy of what there is.
func (s *Readings[R]) All() map[string]R {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.byID)
}
