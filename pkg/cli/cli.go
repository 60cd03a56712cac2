// Package cli is kubectl-mayfly: it finds out, before and after a deployment,
// why a secret does not arrive. Every command gives a report of findings.
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// The exit codes.
const (
	exitClean    = 0
	exitFindings = 1
	exitFailed   = 2
)

// errFindings ends a command that did its work and found something.
var errFindings = errors.New("there are findings")

// Streams are the surroundings of a command.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
	Version  string
}

// Run runs a command line and returns the exit code: 0 where nothing was found,
// 1 for findings of the level that --fail-on names, 2 for what could not run.
func Run(args []string, s Streams) int {
	root := newRoot(s)
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	switch err := root.Execute(); {
	case err == nil:
		return exitClean
	case errors.Is(err, errFindings):
		return exitFindings
	default:
		fmt.Fprintf(s.Err, "kubectl mayfly: %s\n", printable(err.Error()))
		return exitFailed
	}
}

// output are the flags of every command that gives a report.
type output struct {
	format, colour, failOn string
}

func newRoot(s Streams) *cobra.Command {
	o := &output{}
	root := &cobra.Command{
		Use:   "kubectl-mayfly",
		Short: "Find out why a secret does not arrive",
		Long: "Find out why a secret does not arrive.\n\nThe exit code is 0 where nothing was found, 1 for findings of the level\n" +
			"of --fail-on or a heavier one, and 2 for what could not run.",
		Version:       s.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Annotations:   map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl mayfly"},
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetHelpCommand(&cobra.Command{Hidden: true})
	flags := root.PersistentFlags()
	flags.StringVarP(&o.format, "output", "o", formatText, "what to print: "+strings.Join(formats(), ", "))
	flags.StringVar(&o.colour, "color", "auto", "colour in text: auto (on a terminal, unless NO_COLOR is set or TERM is dumb), always, never")
	flags.StringVar(&o.failOn, "fail-on", string(Error), "the lowest level that makes the exit code 1: error, warning, info")
	root.AddCommand(newLint(s, o))
	return root
}

// check refuses flags before any work is done.
func (o *output) check() error {
	if _, err := parseLevel(o.failOn); err != nil {
		return fmt.Errorf("--fail-on: %w", err)
	}
	switch o.colour {
	case "auto", "always", "never":
	default:
		return fmt.Errorf("--color: must be auto, always or never, not %q", o.colour)
	}
	switch o.format {
	case formatText, formatJSON, formatSARIF:
		return nil
	}
	return fmt.Errorf("--output: must be one of %s, not %q", strings.Join(formats(), ", "), o.format)
}

// finish prints the report, and says by its error whether it is bad.
func (o *output) finish(r *Report, s Streams) error {
	r.sort()
	if err := r.print(s.Out, o.format, o.paints(s), s.Version); err != nil {
		return fmt.Errorf("writing the findings: %w", err)
	}
	if r.fails(Level(o.failOn)) {
		return errFindings
	}
	return nil
}

// paints tells whether the text has colour.
func (o *output) paints(s Streams) bool {
	if o.colour != "auto" {
		return o.colour == "always"
	}
	file, ok := s.Out.(*os.File)
	return ok && s.Getenv("NO_COLOR") == "" && s.Getenv("TERM") != "dumb" && term.IsTerminal(int(file.Fd()))
}
