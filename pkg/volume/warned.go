package volume

import (
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// maxWarned bounds the memory of what was warned of.
const maxWarned = 1024

// editions is what is known of classes as they are. The zero value knows none.
type editions[V any] struct {
	mu    sync.Mutex
	known map[class.Ref]edition[V]
}

type edition[V any] struct {
	version string
	what    V
}

func (m *editions[V]) get(c *class.Class) (what V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.known[c.Ref]
	return e.what, ok && c.ResourceVersion != "" && e.version == c.UID+" "+c.ResourceVersion
}

func (m *editions[V]) set(c *class.Class, what V) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || len(m.known) >= maxWarned {
		m.known = map[class.Ref]edition[V]{}
	}
	m.known[c.Ref] = edition[V]{c.UID + " " + c.ResourceVersion, what}
}

// reviews are what providers say of classes.
type reviews struct{ editions[verdict] }

type verdict struct {
	warnings []string
	err      error
}

func (r *reviews) of(c *class.Class, v provider.Validator) ([]string, error) {
	found, ok := r.get(c)
	if !ok {
		found.warnings, found.err = v.Validate(c)
		found.warnings = first(found.warnings, maxWarnings)
		r.set(c, found)
	}
	return found.warnings, found.err
}
