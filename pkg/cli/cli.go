// Package cli is kubectl-mayfly: it finds out, before and after a deployment, why a secret does not
// arrive in a pod. Each command has a package of its own and prints a report of findings.
package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/cli/completion"
	"github.com/mayfly-csi/mayfly/pkg/cli/doctor"
	"github.com/mayfly-csi/mayfly/pkg/cli/explain"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/lint"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/policy"
	"github.com/mayfly-csi/mayfly/pkg/cli/refresh"
	"github.com/mayfly-csi/mayfly/pkg/cli/status"
	"github.com/mayfly-csi/mayfly/pkg/cli/tree"
	"github.com/mayfly-csi/mayfly/pkg/cli/try"
	"github.com/mayfly-csi/mayfly/pkg/cli/who"
)

// The exit codes.
const (
	exitClean    = 0
	exitFindings = 1
	exitFailed   = 2
)

// Run runs a command line and returns the exit code: 0 without findings, 1 for findings of the
// level of --fail-on, 2 for a command that could not run.
func Run(args []string, s output.Streams) int {
	root := newRoot(s)
	root.SetArgs(args)
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	switch err := root.Execute(); {
	case err == nil:
		return exitClean
	case errors.Is(err, output.ErrFindings):
		return exitFindings
	default:
		fmt.Fprintf(s.Err, "kubectl mayfly: %s\n", finding.Printable(err.Error()))
		return exitFailed
	}
}

func newRoot(s output.Streams) *cobra.Command {
	o := &output.Flags{}
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
	o.Bind(root.PersistentFlags())
	root.AddCommand(lint.New(s, o), explain.New(s, o), try.New(s, o), policy.New(s, o))
	root.AddCommand(refresh.New(s, o), status.New(s, o), tree.New(s, o), who.New(s, o), doctor.New(s, o))
	root.AddCommand(completion.New(s))
	completion.Bind(root, s)
	return root
}
