package controlplane

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// Event is the part of a line of the API server's audit log that tests use.
type Event struct {
	Stage, Verb, Level, RequestURI string
	User                           struct{ Username string }
	ObjectRef                      struct{ Resource, Subresource, Namespace, Name string }
	RequestObject                  json.RawMessage
	ResponseStatus                 struct{ Code int }
	Annotations                    map[string]string
}

// AuditEvents reads the whole lines of an audit log from an offset on, and returns the offset of the next.
// At an offset within a line, as the size of a growing file may be, it leaves out the rest of that line.
func AuditEvents(path string, from int64) (all []Event, next int64, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, from, fmt.Errorf("opening the API server's audit log: %w", err)
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.NewSectionReader(file, from, 1<<62))
	if err != nil {
		return nil, from, fmt.Errorf("reading the API server's audit log: %w", err)
	}
	text = text[:bytes.LastIndexByte(text, '\n')+1] // the last line may be half written
	for line := range bytes.Lines(text) {
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			if from > 0 && &line[0] == &text[0] {
				continue
			}
			return nil, from, fmt.Errorf("reading the API server's audit log: %w: %s", err, line)
		}
		all = append(all, e)
	}
	return all, from + int64(len(text)), nil
}
