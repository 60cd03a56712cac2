// Package output prints the report of a command of kubectl mayfly. Text, JSON and SARIF all show
// the same findings.
package output

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
)

// ErrFindings is the error of a command that succeeded and found something.
var ErrFindings = errors.New("there are findings")

// Streams are the input, output and clock of a command. Data goes to Out, progress to Err.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
	Version  string
	// Now is the clock; nil for the real one.
	Now func() time.Time
}

// Time is the clock's time.
func (s Streams) Time() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

// Flags are common to every command with a report.
type Flags struct {
	Format, Color, FailOn string
}

// Bind adds the flags to a set.
func (f *Flags) Bind(flags *pflag.FlagSet) {
	flags.StringVarP(&f.Format, "output", "o", Text, "what to print: "+strings.Join(reports(), ", ")+", or what the command adds")
	flags.StringVar(&f.Color, "color", "auto", "colour in text: auto (on a terminal, unless NO_COLOR is set or TERM is dumb), always, never")
	flags.StringVar(&f.FailOn, "fail-on", string(finding.Error), "the lowest level for exit code 1: error, warning, info")
}

// Check refuses invalid flags before any work is done. A command may have formats of its own
// besides those of a report.
func (f *Flags) Check(more ...string) error {
	if _, err := finding.ParseLevel(f.FailOn); err != nil {
		return fmt.Errorf("--fail-on: %w", err)
	}
	if !slices.Contains([]string{"auto", "always", "never"}, f.Color) {
		return fmt.Errorf("--color: must be auto, always or never, not %q", f.Color)
	}
	if formats := append(reports(), more...); !slices.Contains(formats, f.Format) {
		return fmt.Errorf("--output: must be one of %s, not %q", strings.Join(formats, ", "), f.Format)
	}
	return nil
}

// Finish prints the report, and returns an error if it fails.
func (f *Flags) Finish(r *finding.Report, s Streams) error {
	if err := f.Print(r, s); err != nil {
		return err
	}
	return f.Verdict(r)
}

// Print prints the report without that error.
func (f *Flags) Print(r *finding.Report, s Streams) error {
	r.Sort()
	if err := f.print(r, s); err != nil {
		return fmt.Errorf("writing the findings: %w", err)
	}
	return nil
}

// Aside prints the findings, if there are any, to the standard error, for commands whose standard
// output is data. It returns an error if the report fails.
func (f *Flags) Aside(r *finding.Report, s Streams) error {
	if len(r.Findings) == 0 {
		return nil
	}
	text := *f
	text.Format, s.Out = Text, s.Err
	return text.Finish(r, s)
}

// Verdict is ErrFindings for a report with findings of the level of --fail-on or a more severe one.
// It is for commands that print data of their own.
func (f *Flags) Verdict(r *finding.Report) error {
	if r.Fails(finding.Level(f.FailOn)) {
		return ErrFindings
	}
	return nil
}

// Paints reports whether text has colour.
func (f *Flags) Paints(s Streams) bool {
	if f.Color != "auto" {
		return f.Color == "always"
	}
	file, ok := s.Out.(*os.File)
	return ok && s.Getenv("NO_COLOR") == "" && s.Getenv("TERM") != "dumb" && term.IsTerminal(int(file.Fd()))
}
