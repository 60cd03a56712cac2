package vaulttest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// AuditEntry is one line of the audit log. Vault writes two lines for each request, of type request
// and response, with one RequestID; a sealed server writes none.
type AuditEntry struct {
	Type  string
	Time  time.Time
	Error string

	RequestID, Operation, Path string
	// Headers are those that Vault audits, in lower case.
	Headers map[string][]string

	DisplayName string
	Policies    []string
	// Metadata is the auth method's: service_account_name,
	// service_account_namespace, service_account_uid and role of the kubernetes
	// method; role and the claim mappings of the jwt method.
	Metadata map[string]string
}

// auditLine is the part of Vault's format that AuditEntry has.
type auditLine struct {
	Type  string    `json:"type"`
	Time  time.Time `json:"time"`
	Error string    `json:"error"`
	Auth  struct {
		DisplayName string            `json:"display_name"`
		Policies    []string          `json:"policies"`
		Metadata    map[string]string `json:"metadata"`
	} `json:"auth"`
	Request struct {
		ID        string              `json:"id"`
		Operation string              `json:"operation"`
		Path      string              `json:"path"`
		Headers   map[string][]string `json:"headers"`
	} `json:"request"`
}

// Mark is a position in the audit log; the zero value is its beginning.
type Mark struct{ offset int64 }

// Mark is the present end of the audit log. A line grows page by page while it is written, and an
// unfinished one comes after the mark.
func (s *Server) Mark() (Mark, error) {
	file, err := os.Open(s.AuditFile)
	if err != nil {
		return Mark{}, fmt.Errorf("opening the audit log: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return Mark{}, fmt.Errorf("looking at the audit log: %w", err)
	}
	end := info.Size()
	for end > 0 {
		data := make([]byte, min(end, 4<<10))
		if _, err := file.ReadAt(data, end-int64(len(data))); err != nil {
			return Mark{}, fmt.Errorf("reading the audit log: %w", err)
		}
		last := bytes.LastIndexByte(data, '\n')
		if last >= 0 {
			return Mark{end - int64(len(data)-last-1)}, nil
		}
		end -= int64(len(data))
	}
	return Mark{}, nil
}

// AuditEntries reads the whole audit log.
func (s *Server) AuditEntries(ctx context.Context) ([]AuditEntry, error) {
	return s.AuditEntriesSince(ctx, Mark{})
}

// AuditEntriesSince reads the audit log from a mark on. Vault writes before it
// answers, so every answered request is there.
func (s *Server) AuditEntriesSince(ctx context.Context, since Mark) ([]AuditEntry, error) {
	file, err := os.Open(s.AuditFile)
	if err != nil {
		return nil, fmt.Errorf("opening the audit log: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.NewSectionReader(file, since.offset, 1<<62))
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	// A line without its end is still being written.
	data = data[:bytes.LastIndexByte(data, '\n')+1]
	var entries []AuditEntry
	for line := range bytes.Lines(data) {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		entry, err := parseAudit(line)
		if err != nil {
			return nil, err
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

func parseAudit(line []byte) (AuditEntry, error) {
	var l auditLine
	if err := json.Unmarshal(line, &l); err != nil {
		return AuditEntry{}, fmt.Errorf("parsing audit line %.80q: %w", line, err)
	}
	return AuditEntry{
		Type: l.Type, Time: l.Time, Error: l.Error,
		RequestID: l.Request.ID, Operation: l.Request.Operation, Path: l.Request.Path, Headers: l.Request.Headers,
		DisplayName: l.Auth.DisplayName, Policies: l.Auth.Policies, Metadata: l.Auth.Metadata,
	}, nil
}

// Counts is a number of requests for each path, without "v1/".
type Counts map[string]int

// CountRequests counts the requests that Vault took since a mark, refused ones
// too, by path.
func (s *Server) CountRequests(ctx context.Context, since Mark) (Counts, error) {
	entries, err := s.AuditEntriesSince(ctx, since)
	if err != nil {
		return nil, err
	}
	counts := Counts{}
	seen := map[string]bool{}
	for _, entry := range entries {
		if !seen[entry.RequestID] {
			seen[entry.RequestID] = true
			counts[entry.Path]++
		}
	}
	return counts, nil
}

// Under sums the counts of all paths with a prefix; "" sums all.
func (c Counts) Under(prefix string) int {
	total := 0
	for path, n := range c {
		if strings.HasPrefix(path, prefix) {
			total += n
		}
	}
	return total
}
