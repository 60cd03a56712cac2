package main

import (
	"bytes"
	"io"
	"sync"
)

// logCounter counts the driver's log lines, and how many of them name the hostile tenant's
// namespace.
type logCounter struct {
	mu    sync.Mutex
	to    io.Writer // nil for nowhere
	rest  []byte    // of a line without its end
	evil  int64     // bytes
	lines int64     // of the hostile tenant
	all   int64     // bytes
}

// maxLine bounds an unfinished line in bytes.
const maxLine = 4 << 20

// Write implements io.Writer.
func (l *logCounter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all += int64(len(p))
	if l.to != nil {
		if n, err := l.to.Write(p); err != nil {
			return n, err
		}
	}
	l.rest = append(l.rest, p...)
	for {
		end := bytes.IndexByte(l.rest, '\n')
		if end < 0 {
			break
		}
		if line := l.rest[:end+1]; bytes.Contains(line, []byte(evil)) {
			l.evil += int64(len(line))
			l.lines++
		}
		l.rest = l.rest[end+1:]
	}
	if len(l.rest) > maxLine {
		l.rest = nil
	}
	return len(p), nil
}

// ofEvil is how many bytes and lines the hostile tenant caused.
func (l *logCounter) ofEvil() (size, lines int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.evil, l.lines
}
