package session

import "sync"

// Groups holds what the volumes of one identity share, for each identity that
// this node has volumes of. K is who asks, as far as the store can tell: what
// two volumes with the same key ask is answered alike. The zero value is ready
// for use.
type Groups[K comparable, G any] struct {
	mu    sync.Mutex
	byKey map[K]*members[G]
}

type members[G any] struct {
	shared  *G
	volumes map[string]struct{}
}

// Join makes the volume a member. The first one's begin makes the group.
func (s *Groups[K, G]) Join(key K, volume string, begin func(K) *G) *G {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.byKey[key]
	if !ok {
		if s.byKey == nil {
			s.byKey = map[K]*members[G]{}
		}
		m = &members[G]{begin(key), map[string]struct{}{}}
		s.byKey[key] = m
	}
	m.volumes[volume] = struct{}{}
	return m.shared
}

// Find is the group of an identity; nil where this node has no volume of it.
func (s *Groups[K, G]) Find(key K) *G {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok := s.byKey[key]; ok {
		return m.shared
	}
	return nil
}

// Leave ends the membership. It tells whether nobody is left in the group, so
// that what is the group's is to be ended.
func (s *Groups[K, G]) Leave(key K, g *G, volume string) (last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.byKey[key]
	if !ok || m.shared != g {
		return true // it ended before
	}
	delete(m.volumes, volume)
	if len(m.volumes) > 0 {
		return false
	}
	delete(s.byKey, key)
	return true
}
