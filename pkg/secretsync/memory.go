package secretsync

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/mayfly-csi/mayfly/pkg/class"
)

// key names a Secret of a class.
type key struct {
	class  class.Ref
	secret string
}

// state is what this process knows of one Secret. Who works on it has its turn,
// and the rest is theirs.
type state struct {
	turn chan struct{}

	// last is what came of the latest try, of which digest that was, and why it
	// failed.
	last    Result
	digest  string
	failure error
	// at is when the API server was last asked.
	at time.Time
	// uid is the Secret's.
	uid types.UID
	// readAt and classVersion are of the wish that was tried last.
	readAt       time.Time
	classVersion string
	// failures counts the tries that failed in a row.
	failures int
}

// has tells whether the Secret has a content, as far as this process knows.
func (st *state) has(digest string) bool {
	return st.digest == digest && (st.last == Written || st.last == Unchanged)
}

// seen is what a volume came with, once something came of it.
type seen struct {
	digest string
	// owned is the Secret that the volume's pod was made an owner of.
	owned types.UID
}

// memory has the states. One is forgotten with the last volume that came with
// the Secret.
type memory struct {
	mu      sync.Mutex
	states  map[key]*state
	volumes map[string]map[key]seen
	uses    map[key]int // volumes of each Secret
}

func newMemory() *memory {
	return &memory{states: map[key]*state{}, volumes: map[string]map[key]seen{}, uses: map[key]int{}}
}

// take finds or makes the state of a Secret for a volume.
func (m *memory) take(volume string, k key) (*state, seen) {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := m.states[k]
	if st == nil {
		st = &state{turn: make(chan struct{}, 1)}
		m.states[k] = st
	}
	had, ok := m.volumes[volume][k]
	if !ok {
		if m.volumes[volume] == nil {
			m.volumes[volume] = map[key]seen{}
		}
		m.volumes[volume][k] = seen{}
		m.uses[k]++
	}
	return st, had
}

// note keeps what a volume came with, unless it is gone.
func (m *memory) note(volume string, k key, s seen) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.volumes[volume][k]; ok {
		m.volumes[volume][k] = s
	}
}

// retain drops what a volume came with but these.
func (m *memory) retain(volume string, keys map[key]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.volumes[volume] {
		if keys[k] {
			continue
		}
		delete(m.volumes[volume], k)
		if m.uses[k]--; m.uses[k] <= 0 {
			delete(m.uses, k)
			delete(m.states, k)
		}
	}
	if len(m.volumes[volume]) == 0 {
		delete(m.volumes, volume)
	}
}
