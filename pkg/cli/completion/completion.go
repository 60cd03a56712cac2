// Package completion completes command lines of kubectl mayfly in a shell: its
// commands and flags, and the names of the cluster's objects.
package completion

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
)

// Script is the program that kubectl runs to complete a plugin's command line. kubectl finds it in
// PATH by the name kubectl_complete-mayfly.
const Script = `#!/bin/sh
# kubectl runs this to complete: kubectl mayfly <TAB>
exec kubectl mayfly __complete "$@"
`

// New makes the command.
func New(s output.Streams) *cobra.Command {
	shells := map[string]func(*cobra.Command) error{
		"bash":       func(root *cobra.Command) error { return root.GenBashCompletionV2(s.Out, true) },
		"zsh":        func(root *cobra.Command) error { return root.GenZshCompletion(s.Out) },
		"fish":       func(root *cobra.Command) error { return root.GenFishCompletion(s.Out, true) },
		"powershell": func(root *cobra.Command) error { return root.GenPowerShellCompletionWithDesc(s.Out) },
		"kubectl": func(*cobra.Command) error {
			_, err := fmt.Fprint(s.Out, Script)
			return err
		},
	}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell|kubectl",
		Short: "Print a script that completes command lines in a shell",
		Long: `Print a script that completes command lines in a shell.

With kubectl it is the script that kubectl itself runs for "kubectl mayfly", where
kubectl's own completion is set up: an executable of the name
kubectl_complete-mayfly in PATH. With a shell's name it is for kubectl-mayfly
called by its own name.`,
		Example: `  # For kubectl mayfly, in every shell that completes kubectl
  kubectl mayfly completion kubectl > kubectl_complete-mayfly
  sudo install kubectl_complete-mayfly /usr/local/bin/

  # For kubectl-mayfly, in this bash
  source <(kubectl-mayfly completion bash)`,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		ValidArgs: []string{"bash", "zsh", "fish", "powershell", "kubectl"},
		RunE:      func(cmd *cobra.Command, args []string) error { return shells[args[0]](cmd.Root()) },
	}
}

// patience bounds the cluster's time to answer.
const patience = 3 * time.Second

// most bounds how many names are offered.
const most = 500

// source returns names of a cluster that complete an argument.
type source func(ctx context.Context, c *cluster.Client, typed string) ([]string, error)

// arguments are the first arguments of the commands.
func arguments() map[string]source {
	return map[string]source{
		"who": classesAndObjects, "try": classes, "policy": classes, "tree": classes,
		"explain": pods, "refresh": both,
	}
}

// Bind adds completions to all commands of a root: names of classes and pods as arguments, and the
// values of flags.
func Bind(root *cobra.Command, s output.Streams) {
	fixed(root, "output", output.Text, output.JSON, output.SARIF)
	fixed(root, "color", "auto", "always", "never")
	fixed(root, "fail-on", string(finding.Error), string(finding.Warning), string(finding.Info))
	for _, cmd := range root.Commands() {
		if names := arguments()[cmd.Name()]; names != nil && cmd.ValidArgsFunction == nil {
			cmd.ValidArgsFunction = complete(s, names)
		}
		if cmd.Flags().Lookup("kubeconfig") != nil {
			_ = cmd.RegisterFlagCompletionFunc("namespace", complete(s, namespaces)) // it has the flag, and none completes it yet
		}
	}
}

func fixed(root *cobra.Command, flag string, values ...string) {
	_ = root.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
}

func complete(s output.Streams, names source) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		const done = cobra.ShellCompDirectiveNoFileComp
		client, err := flagsOf(cmd).Connect(s)
		if err != nil {
			return nil, done
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), patience)
		defer cancel()
		all, err := names(ctx, client, typed)
		if err != nil {
			return nil, done
		}
		all = slices.DeleteFunc(all, func(name string) bool {
			return !plain.MatchString(name) || !strings.HasPrefix(name, typed) || slices.Contains(args, name)
		})
		slices.Sort(all)
		return all[:min(len(all), most)], done
	}
}

// plain matches what a shell does not interpret: nothing else is offered.
var plain = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]*$`)

// flagsOf are a command's flags for the cluster, as typed so far.
func flagsOf(cmd *cobra.Command) *cluster.Flags {
	f := &cluster.Flags{}
	set := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.Bind(set)
	cmd.Flags().Visit(func(given *pflag.Flag) {
		if own := set.Lookup(given.Name); own != nil {
			_ = own.Value.Set(given.Value.String()) // it was parsed before
		}
	})
	return f
}

func classes(ctx context.Context, c *cluster.Client, _ string) ([]string, error) {
	list, err := c.Classes(ctx, c.Namespace)
	var names []string
	for i := range list {
		names = append(names, list[i].Name)
	}
	return names, err
}

func classesAndObjects(ctx context.Context, c *cluster.Client, typed string) ([]string, error) {
	name, _, ok := strings.Cut(typed, "/")
	if !ok {
		return classes(ctx, c, typed)
	}
	spc, err := c.Class(ctx, c.Namespace, name)
	if err != nil {
		return nil, err
	}
	files, _ := c.Files(ctx, spc) // without statuses, those that the class names
	var names []string
	for _, id := range files.Names {
		names = append(names, name+"/"+id)
	}
	return names, nil
}

func pods(ctx context.Context, c *cluster.Client, _ string) ([]string, error) {
	list, err := c.CoreV1().Pods(c.Namespace).List(ctx, metav1.ListOptions{Limit: most})
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range list.Items {
		names = append(names, "pod/"+list.Items[i].Name)
	}
	return names, nil
}

func both(ctx context.Context, c *cluster.Client, typed string) ([]string, error) {
	names, err := classes(ctx, c, typed)
	more, err2 := pods(ctx, c, typed)
	if err != nil && err2 != nil {
		return nil, err
	}
	return append(names, more...), nil
}

func namespaces(ctx context.Context, c *cluster.Client, _ string) ([]string, error) {
	list, err := c.CoreV1().Namespaces().List(ctx, metav1.ListOptions{Limit: most})
	if err != nil {
		return nil, err
	}
	var names []string
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names, nil
}
