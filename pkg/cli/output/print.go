package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
)

// The formats of a report.
const (
	Text  = "text"
	JSON  = "json"
	SARIF = "sarif"
)

func reports() []string { return []string{Text, JSON, SARIF} }

func (f *Flags) print(r *finding.Report, s Streams) error {
	switch f.Format {
	case JSON:
		return writeJSON(s.Out, r)
	case SARIF:
		return writeSARIF(s.Out, r, s.Version)
	}
	return writeText(s.Out, r, f.Paints(s))
}

const (
	reset  = "\x1b[0m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	blue   = "\x1b[34m"
)

// mark is a level's symbol and colour.
func mark(l finding.Level) (symbol, colour string) {
	switch l {
	case finding.Error:
		return "✗", red
	case finding.Warning:
		return "‼", yellow
	}
	return "ℹ", blue
}

// stateMark is a check's symbol and colour.
func stateMark(s finding.State) (symbol, colour string) {
	switch s {
	case finding.Good:
		return "✓", green
	case finding.Bad:
		return "✗", red
	case finding.Unknown:
		return "?", yellow
	}
	return "-", ""
}

// writeText is for people: one line for each check, two lines for each finding, and a summary.
func writeText(w io.Writer, r *finding.Report, colour bool) error {
	paint := func(text, with string) string {
		if !colour || with == "" {
			return text
		}
		return with + text + reset
	}
	var b strings.Builder
	for _, c := range r.Checks {
		symbol, with := stateMark(c.State)
		b.WriteString(paint(symbol, with) + " " + c.Title)
		if c.Detail != "" {
			b.WriteString(": " + c.Detail)
		}
		b.WriteString("\n")
	}
	if len(r.Checks) > 0 {
		b.WriteString("\n")
	}
	for i := range r.Findings {
		f := &r.Findings[i]
		symbol, with := mark(f.Level)
		b.WriteString(paint(symbol+" "+f.Code, with) + " ")
		if place := place(f); place != "" {
			b.WriteString(place + ": ")
		}
		if about := f.Object.String(); about != "" {
			b.WriteString(about + ": ")
		}
		b.WriteString(f.Message + "\n  → " + f.Remedy + "\n")
	}
	if len(r.Findings) == 0 {
		b.WriteString(paint("✓", green) + " no findings " + looked(r) + "\n")
	} else {
		fmt.Fprintf(&b, "%s, %s, %d info %s; %s explains the codes\n",
			Plural(r.Count(finding.Error), "error"), Plural(r.Count(finding.Warning), "warning"), r.Count(finding.Info), looked(r), finding.DocsPage)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// looked says which objects or files were checked.
func looked(r *finding.Report) string {
	if r.Files > 0 || len(r.Checks) == 0 && r.Objects == 0 {
		return fmt.Sprintf("in %s of %s", Plural(r.Objects, "object"), Plural(r.Files, "file"))
	}
	return fmt.Sprintf("in %s of the cluster", Plural(r.Objects, "object"))
}

func place(f *finding.Finding) string {
	if f.File == "" || f.Line == 0 {
		return f.File
	}
	return fmt.Sprintf("%s:%d", f.File, f.Line)
}

// Plural formats a number with its noun.
func Plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

func writeJSON(w io.Writer, r *finding.Report) error {
	out := struct {
		// Version counts the changes of this form that break readers.
		Version  int                   `json:"version"`
		Checks   []finding.Check       `json:"checks,omitempty"`
		Findings []finding.Finding     `json:"findings"`
		Summary  map[finding.Level]int `json:"summary"`
		Objects  int                   `json:"objects"`
		Files    int                   `json:"files"`
	}{1, r.Checks, append([]finding.Finding{}, r.Findings...), map[finding.Level]int{}, r.Objects, r.Files}
	for _, l := range finding.Levels() {
		out.Summary[l] = r.Count(l)
	}
	return EncodeJSON(w, out)
}

// EncodeJSON writes indented JSON for people. It escapes characters that a terminal would
// interpret, which JSON allows for any character of a string.
func EncodeJSON(w io.Writer, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	var safe strings.Builder
	for _, r := range b.String() {
		if r < utf8.RuneSelf && r != 0x7f || unicode.IsPrint(r) {
			safe.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&safe, `\u%04x`, unit)
		}
	}
	_, err := io.WriteString(w, safe.String())
	return err
}
