package pluginprovider

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"strconv"
	"sync"
)

// Store has objects by name.
type Store interface {
	// Read returns an object's value and version; ok reports whether it exists.
	Read(name string) (value []byte, version string, ok bool)
}

// Memory is a Store that counts an object's versions.
type Memory struct {
	mu      sync.Mutex
	objects map[string]object
}

type object struct {
	value   string
	version int
}

// Set sets an object's value.
func (m *Memory) Set(name, value string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.objects == nil {
		m.objects = map[string]object{}
	}
	m.objects[name] = object{value, m.objects[name].version + 1}
}

// Read implements Store.
func (m *Memory) Read(name string) ([]byte, string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[name]
	return []byte(o.value), strconv.Itoa(o.version), ok
}

// Dir is a Store in a directory, with one file for each object. The version is the beginning of a
// hash, which suffices for test values.
type Dir string

// Read implements Store.
func (d Dir) Read(name string) ([]byte, string, bool) {
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, "", false
	}
	defer func() { _ = root.Close() }()
	value, err := root.ReadFile(name)
	if err != nil {
		return nil, "", false
	}
	sum := sha256.Sum256(value)
	return value, hex.EncodeToString(sum[:6]), true
}
