package secretsync

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/mayfly-csi/mayfly/pkg/class"
)

// key identifies a Secret of a class.
type key struct {
	class  class.Ref
	secret string
}

// state is what this process knows of one Secret. The goroutine that has the turn may use
// the other fields.
type state struct {
	turn chan struct{}

	// last is the result of the last try, and failure its error.
	last    Result
	failure error
	// refused is the digest of the content that could not be written.
	refused string
	// failures is the number of failed tries in a row.
	failures int
	// at is the time of the last request to the API server.
	at time.Time
	// uid and content are the Secret's after the last try without a failure.
	uid     types.UID
	content content
}

// has reports whether the Secret has a content, as far as this process knows.
func (st *state) has(digest string) bool { return st.failure == nil && st.content.digest == digest }

// hasAllBut reports whether the Secret differs only in its certificate, as far as this
// process knows.
func (st *state) hasAllBut(w content) bool {
	return st.failure == nil && st.content.digest != w.digest && st.content.hasAllBut(w)
}

// replaceAt returns when the certificate of a content replaces that of the Secret; zero for
// never.
func (st *state) replaceAt(w content) time.Time {
	if !st.hasAllBut(w) || st.content.newer(w) {
		return time.Time{}
	}
	return st.content.replaceAt(w)
}

// seen is what a volume wanted at its last successful try.
type seen struct {
	digest string
	// owned is the Secret of which the volume's pod became an owner.
	owned types.UID
}

// memory has the states. A state ends with the last volume of its Secret.
type memory struct {
	mu      sync.Mutex
	states  map[key]*state
	volumes map[string]map[key]seen
	uses    map[key]int // volumes of each Secret
}

func newMemory() *memory {
	return &memory{states: map[key]*state{}, volumes: map[string]map[key]seen{}, uses: map[key]int{}}
}

// take returns the state of a Secret for a volume, and makes it if there is none.
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

// note records what a volume wanted, unless the volume is gone.
func (m *memory) note(volume string, k key, s seen) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.volumes[volume][k]; ok {
		m.volumes[volume][k] = s
	}
}

// retain drops what a volume wanted, except these.
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
