package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// The formats of a report.
const (
	formatText  = "text"
	formatJSON  = "json"
	formatSARIF = "sarif"
)

func formats() []string { return []string{formatText, formatJSON, formatSARIF} }

// print writes the report in a format.
func (r *Report) print(w io.Writer, format string, colour bool, version string) error {
	switch format {
	case formatJSON:
		return r.json(w)
	case formatSARIF:
		return r.sarif(w, version)
	}
	return r.text(w, colour)
}

const (
	reset  = "\x1b[0m"
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	blue   = "\x1b[34m"
)

// mark is a level's symbol and colour.
func (l Level) mark() (symbol, colour string) {
	switch l {
	case Error:
		return "✗", red
	case Warning:
		return "‼", yellow
	}
	return "ℹ", blue
}

// text is for people: each finding in two lines, and a sum.
func (r *Report) text(w io.Writer, colour bool) error {
	paint := func(text, with string) string {
		if !colour {
			return text
		}
		return with + text + reset
	}
	var b strings.Builder
	for i := range r.Findings {
		f := &r.Findings[i]
		symbol, with := f.Level.mark()
		b.WriteString(paint(symbol+" "+f.Code, with) + " ")
		if place := f.place(); place != "" {
			b.WriteString(place + ": ")
		}
		if about := f.Object.String(); about != "" {
			b.WriteString(about + ": ")
		}
		b.WriteString(f.Message + "\n  → " + f.Remedy + "\n")
	}
	looked := fmt.Sprintf("in %s of %s", plural(r.Objects, "object"), plural(r.Files, "file"))
	if len(r.Findings) == 0 {
		b.WriteString(paint("✓", green) + " no findings " + looked + "\n")
	} else {
		fmt.Fprintf(&b, "%s, %s, %d info %s; %s explains the codes\n",
			plural(r.count(Error), "error"), plural(r.count(Warning), "warning"), r.count(Info), looked, docsPage)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (f *Finding) place() string {
	if f.File == "" || f.Line == 0 {
		return f.File
	}
	return fmt.Sprintf("%s:%d", f.File, f.Line)
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

func (r *Report) json(w io.Writer) error {
	out := struct {
		// Version counts the changes of this form that break readers.
		Version  int           `json:"version"`
		Findings []Finding     `json:"findings"`
		Summary  map[Level]int `json:"summary"`
		Objects  int           `json:"objects"`
		Files    int           `json:"files"`
	}{1, append([]Finding{}, r.Findings...), map[Level]int{}, r.Objects, r.Files}
	for _, l := range levels() {
		out.Summary[l] = r.count(l)
	}
	return encode(w, out)
}

func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
