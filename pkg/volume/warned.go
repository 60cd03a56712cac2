package volume

import (
	"sync"

	"github.com/mayfly-csi/mayfly/pkg/class"
)

// maxWarned bounds the memory of what was warned of.
const maxWarned = 1024

// warned are the states of classes of which the log has the warnings. The zero
// value has none.
type warned struct {
	mu    sync.Mutex
	known map[class.Ref]string // resource version
}

// first tells whether the class has not been warned of as it is.
func (w *warned) first(c *class.Class) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if version, ok := w.known[c.Ref]; ok && version == c.ResourceVersion {
		return false
	}
	if w.known == nil || len(w.known) >= maxWarned {
		w.known = map[class.Ref]string{}
	}
	w.known[c.Ref] = c.ResourceVersion
	return true
}
