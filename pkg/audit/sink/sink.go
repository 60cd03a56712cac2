// Package sink writes the lines of an audit trail to a file, which another program
// may rotate, or to standard output.
package sink

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"
)

// Sink writes lines. Each call is one write, so that two processes can share a file,
// for example during an upgrade.
type Sink interface {
	// Write writes whole lines, and returns how many bytes of them are written.
	Write(text []byte) (int, error)
	// Last returns the last complete line of JSON, without its end; nil if there is
	// none, or if it cannot be read.
	Last() ([]byte, error)
	Close()
}

// Open opens the file, or returns stdout for the path "-".
func Open(path string, stdout io.Writer) (Sink, error) {
	if path == "-" {
		return &stream{lines{w: stdout}}, nil
	}
	f := &file{path: path}
	return f, f.open()
}

// lines begins a new line after a part of a line, which a full disk leaves.
type lines struct {
	w    io.Writer
	torn bool // w ends in the middle of a line
}

func (s *lines) write(text []byte) (int, error) {
	before := 0
	if s.torn {
		before = 1
		text = append([]byte("\n"), text...)
	}
	n, err := s.w.Write(text)
	if n > 0 {
		s.torn = text[n-1] != '\n'
	}
	return max(n-before, 0), err
}

// stream is standard output, which the sink does not close.
type stream struct{ lines }

// Write implements Sink.
func (s *stream) Write(text []byte) (int, error) { return s.write(text) }

// Last implements Sink: a stream cannot be read back.
func (*stream) Last() ([]byte, error) { return nil, nil }

// Close implements Sink.
func (*stream) Close() {}

// file is an audit log that another program may rotate, by renaming or truncating
// it.
type file struct {
	path string
	f    *os.File
	info fs.FileInfo // of f
	lines
}

// open creates the file, for root only, if it does not exist. An existing file
// keeps its mode: the operator decides who may read it.
func (s *file) open() error {
	// O_NONBLOCK: opening a pipe must not wait for its reader.
	f, err := os.OpenFile(s.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return fmt.Errorf("opening the audit log: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file; \"-\" stands for standard output", s.path)
	}
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("opening the audit log: %w", err)
	}
	s.Close()
	s.f, s.info, s.lines = f, info, lines{f, cutOff(f, info.Size())}
	return nil
}

// cutOff reports whether the file ends with a part of a line, after a full disk or
// a kill.
func cutOff(f *os.File, size int64) bool {
	if size == 0 {
		return false
	}
	last := make([]byte, 1)
	_, err := f.ReadAt(last, size-1)
	return err == nil && last[0] != '\n'
}

// Write implements Sink.
func (s *file) Write(text []byte) (int, error) {
	if now, err := os.Stat(s.path); err != nil || s.f == nil || !os.SameFile(now, s.info) {
		if err := s.open(); err != nil {
			return 0, err
		}
	}
	return s.write(text)
}

// longest is how many bytes of a file's end are read to find its last line.
const longest = 1 << 20

// Last implements Sink. A part of a line does not count.
func (s *file) Last() ([]byte, error) {
	info, err := s.f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the end of the audit log: %w", err)
	}
	from := max(0, info.Size()-longest)
	end := make([]byte, info.Size()-from)
	if _, err := s.f.ReadAt(end, from); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the end of the audit log: %w", err)
	}
	lines := bytes.Split(end, []byte("\n"))
	lines = lines[:len(lines)-1] // without what follows the last end of a line
	if from > 0 && len(lines) > 0 {
		lines = lines[1:] // cut
	}
	for _, line := range slices.Backward(lines) {
		if json.Valid(line) {
			return line, nil
		}
	}
	return nil, nil
}

// Close implements Sink.
func (s *file) Close() {
	if s.f != nil {
		_ = s.f.Close()
		s.f = nil
	}
}
