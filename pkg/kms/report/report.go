// Package report is the output of mayfly-kms' tools: what they checked, what they found, and what
// to do, as text and as JSON.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/pkg/kms/stored"
)

// State is the result of a check.
type State string

// The states. A check that could not be made is never OK.
const (
	OK      State = "ok"
	Warning State = "warning" // it works, and should be otherwise
	Failed  State = "failed"
	Unknown State = "unknown" // it could not be looked at
	Skipped State = "skipped" // a check before it failed, or it does not apply
)

// Check is one check.
type Check struct {
	Title  string `json:"title"`
	State  State  `json:"state"`
	Detail string `json:"detail,omitempty"`
	// Remedy says what to do, if the state is not OK.
	Remedy string `json:"remedy,omitempty"`
}

// Report is what a command found.
type Report struct {
	// Version counts the changes of the JSON form that break readers.
	Version int            `json:"version"`
	Checks  []Check        `json:"checks"`
	Scans   []*scan.Result `json:"scans,omitempty"`
	// Verdict is the answer to the tool's question.
	Verdict string `json:"verdict,omitempty"`
}

// New is an empty report.
func New() *Report { return &Report{Version: 1, Checks: []Check{}} }

// Good adds a check without problems.
func (r *Report) Good(title, detail string, args ...any) {
	r.add(title, OK, "", detail, args)
}

// Add adds a check with what to do.
func (r *Report) Add(state State, title, remedy, detail string, args ...any) {
	r.add(title, state, remedy, detail, args)
}

func (r *Report) add(title string, state State, remedy, detail string, args []any) {
	if len(args) > 0 {
		detail = fmt.Sprintf(detail, args...)
	}
	r.Checks = append(r.Checks, Check{finding.Printable(title), state, finding.Printable(detail), finding.Printable(remedy)})
}

// Clean reports whether everything was checked and is in order. Warnings are in order unless
// strict.
func (r *Report) Clean(strict bool) bool {
	for _, c := range r.Checks {
		if c.State == Failed || c.State == Unknown || strict && c.State == Warning {
			return false
		}
	}
	return true
}

// JSON writes the report.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// Text writes the report for people.
func (r *Report) Text(w io.Writer) error {
	var b strings.Builder
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "%s %s", symbols()[c.State], c.Title)
		if c.Detail != "" {
			b.WriteString(": " + c.Detail)
		}
		b.WriteString("\n")
		if c.Remedy != "" {
			b.WriteString("  → " + c.Remedy + "\n")
		}
	}
	for _, s := range r.Scans {
		writeScan(&b, s)
	}
	if r.Verdict != "" {
		b.WriteString("\n" + r.Verdict + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func symbols() map[State]string {
	return map[State]string{OK: "✓", Warning: "‼", Failed: "✗", Unknown: "?", Skipped: "-"}
}

func writeScan(b *strings.Builder, s *scan.Result) {
	fmt.Fprintf(b, "\n%s, revision %d\n", finding.Printable(s.Source), s.Revision)
	if len(s.Resources) == 0 {
		b.WriteString("  no values of the resources\n")
	}
	for _, f := range s.Resources {
		fmt.Fprintf(b, "  %s: %s\n", finding.Printable(f.Resource), Plural(f.Values, "value"))
		for _, u := range f.Under {
			symbol := "✓"
			if !u.Wanted {
				symbol = "✗"
			}
			fmt.Fprintf(b, "    %s %7d  %s\n", symbol, u.Values, finding.Printable(Describe(u)))
		}
		if len(f.Stragglers) > 0 {
			fmt.Fprintf(b, "    ✗ names: %s\n", Names(f))
		}
	}
}

// Names are the listed stragglers of a resource.
func Names(f scan.Found) string {
	text := finding.Printable(strings.Join(f.Stragglers, ", "))
	if more := f.StragglerCount - len(f.Stragglers); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// Describe says which provider and key values are under.
func Describe(u scan.Under) string {
	switch {
	case u.Error != "":
		return "cannot be read: " + u.Error
	case u.Provider == stored.Identity:
		return "plain text"
	}
	text := string(u.Provider) + " " + u.Name
	if u.KeyID != "" {
		text += ", key id " + u.KeyID
	}
	if u.Version > 0 {
		text += fmt.Sprintf(" (version %d of the key)", u.Version)
	}
	return text
}

// Plural formats a number with its noun.
func Plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
