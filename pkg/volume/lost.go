package volume

import (
	"maps"
	"slices"
	"sync"
)

// lostRecords has the files of records that could not be read, by RecordKey, until
// kubelet publishes their volumes again.
type lostRecords struct {
	mu    sync.Mutex
	files map[string]string
}

func (l *lostRecords) add(bad BadRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files[bad.Key] = bad.File
}

// take returns and removes the file of a volume's record; empty for none.
func (l *lostRecords) take(id string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.files) == 0 {
		return ""
	}
	key := RecordKey(id)
	file := l.files[key]
	delete(l.files, key)
	return file
}

// list returns the files, in no order.
func (l *lostRecords) list() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.files))
}
