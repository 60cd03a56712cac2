// Package finding has the findings of kubectl mayfly, in one form for every printer, and the rule
// behind each code.
package finding

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/mayfly-csi/mayfly/pkg/printable"
)

// Level is the severity of a finding.
type Level string

// The levels, the most severe first.
const (
	Error   Level = "error"   // the driver refuses it, or the pod does not start
	Warning Level = "warning" // it works, and probably not as was meant
	Info    Level = "info"    // worth knowing
)

// Levels are all levels, the most severe first.
func Levels() []Level { return []Level{Error, Warning, Info} }

// atLeast reports whether a level is as severe as another one.
func (l Level) atLeast(other Level) bool {
	return slices.Index(Levels(), l) <= slices.Index(Levels(), other)
}

// ParseLevel reads a level.
func ParseLevel(text string) (Level, error) {
	if l := Level(text); slices.Contains(Levels(), l) {
		return l, nil
	}
	return "", fmt.Errorf("must be error, warning or info, not %q", text)
}

// Object is the object of a finding. Every field may be empty.
type Object struct {
	Kind      string `json:"kind,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
}

// String is "Kind namespace/name", as far as they are known.
func (o Object) String() string {
	name := o.Name
	switch {
	case o.Namespace != "" && name == "":
		name = "in " + o.Namespace
	case o.Namespace != "":
		name = o.Namespace + "/" + name
	}
	return strings.TrimSpace(o.Kind + " " + name)
}

// Finding is one result that a command reports.
type Finding struct {
	Code   string `json:"code"`
	Level  Level  `json:"level"`
	Object Object `json:"object"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"`
	// Message is one sentence, Remedy says what to do.
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
	// Docs is the address of the page about the code.
	Docs string `json:"docs"`
}

// Stdin stands for the standard input where a file would be named.
const Stdin = "<stdin>"

// State is the result of a check.
type State string

// The states. A check that could not read its objects is never Good.
const (
	Good    State = "ok"
	Bad     State = "failed"
	Unknown State = "unknown" // the command could not read an object: a finding says why
	Skipped State = "skipped" // a check before it failed, or it does not apply
)

// Check is one check of a command, in the order of checking.
type Check struct {
	Title  string `json:"title"`
	State  State  `json:"state"`
	Detail string `json:"detail,omitempty"`
}

// Report is what a command found; every printer shows the same.
type Report struct {
	Checks   []Check
	Findings []Finding
	// Objects and Files are how many were checked.
	Objects, Files int

	seen map[Finding]bool
}

// Add adds a finding, with the level and the remedy of its rule if it has none of its own. It makes
// the untrusted text printable, once for every printer.
func (r *Report) Add(code string, f Finding) {
	rule := RuleOf(code)
	f.Code, f.Docs = rule.Code, rule.Docs()
	f.Level, f.Remedy = cmp.Or(f.Level, rule.Level), cmp.Or(f.Remedy, rule.Remedy)
	f.Message, f.Remedy, f.File = Printable(f.Message), Printable(f.Remedy), Printable(f.File)
	f.Object = Object{Kind: Printable(f.Object.Kind), Namespace: Printable(f.Object.Namespace), Name: Printable(f.Object.Name)}
	if r.seen == nil {
		r.seen = map[Finding]bool{}
	}
	if !r.seen[f] {
		r.seen[f] = true
		r.Findings = append(r.Findings, f)
	}
}

// Check adds a check.
func (r *Report) Check(title string, state State, detail string) {
	r.Checks = append(r.Checks, Check{Title: Printable(title), State: state, Detail: Printable(detail)})
}

// Sort orders the findings by file and line, and those without a file by severity.
func (r *Report) Sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.weight(), b.weight()),
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Object.String(), b.Object.String()), cmp.Compare(a.Message, b.Message))
	})
}

// weight is smaller for what is read first. In a file the line counts.
func (f *Finding) weight() int {
	if f.File != "" {
		return 0
	}
	return slices.Index(Levels(), f.Level)
}

// Count is the number of findings of a level.
func (r *Report) Count(l Level) int {
	n := 0
	for i := range r.Findings {
		if r.Findings[i].Level == l {
			n++
		}
	}
	return n
}

// Fails reports whether there is a finding of a level or a more severe one.
func (r *Report) Fails(on Level) bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Level.atLeast(on) })
}

// maxText bounds the text of one finding.
const maxText = 1500

// Printable escapes what could end a line, move a terminal's cursor or change the direction of
// text.
func Printable(s string) string { return printable.Text(s, maxText) }
