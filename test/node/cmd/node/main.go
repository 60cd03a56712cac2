// Command node starts a real Kubernetes node on this machine, and removes it again.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/mayfly-csi/mayfly/test/node"
)

const usage = `usage: node [-dir DIR] COMMAND

Runs a real Kubernetes node on this machine, for tests and development.

  up               make the node, unless it runs; prints its kubeconfig
  down             end it, and leave nothing of it
  status           what each component does
  env              shell commands that point kubectl at the node: eval "$(node env)"
  logs [NAME]      the log of a component (default: where the logs are)
  load FILE...     load images from archives (OCI, or docker save)
  restart NAME     restart a component
  reboot           lose all mounts and containers, as in a power failure

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	flags := flag.NewFlagSet("node", flag.ContinueOnError)
	dir := flags.String("dir", "", "the folder for all state (default $MAYFLY_NODE_DIR, or "+node.DefaultDir()+")")
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
	}
	switch err := flags.Parse(os.Args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		os.Exit(2)
	case flags.NArg() == 0:
		flags.Usage()
		os.Exit(2)
	}
	options := node.Options{Dir: *dir, Out: os.Stderr}
	if err := run(ctx, options, os.Stdout, flags.Arg(0), flags.Args()[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, options node.Options, out io.Writer, command string, args []string) error {
	switch command {
	case "up":
		n, err := node.Up(ctx, options)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, n.Kubeconfig())
		return nil
	case "down":
		return node.Down(ctx, options)
	}
	n, err := node.Attach(options)
	if err != nil {
		return fmt.Errorf("%w (node up makes one)", err)
	}
	switch command {
	case "status":
		return status(ctx, n, out)
	case "env":
		fmt.Fprintf(out, "export KUBECONFIG=%s\nexport PATH=%s:$PATH\n", n.Kubeconfig(), filepath.Dir(n.Kubectl()))
		return nil
	case "logs":
		return logs(ctx, n, out, args)
	case "load":
		return load(ctx, n, args)
	case "restart":
		return restart(ctx, n, args)
	case "reboot":
		return n.Reboot(ctx)
	}
	return fmt.Errorf("unknown command %q; node -help lists them", command)
}

func status(ctx context.Context, n *node.Node, out io.Writer) error {
	all, err := n.Status(ctx)
	if err != nil {
		return err
	}
	broken := 0
	for _, s := range all {
		state := "ready"
		if s.Err != nil {
			broken++
			state, _, _ = strings.Cut(s.Err.Error(), "\n")
		}
		fmt.Fprintf(out, "%-24s %-8d %s\n", s.Component, s.Pid, state)
	}
	if broken > 0 {
		return fmt.Errorf("%d of %d components are not ready", broken, len(all))
	}
	return nil
}

func logs(ctx context.Context, n *node.Node, out io.Writer, args []string) error {
	if len(args) == 0 {
		for _, c := range node.Components() {
			fmt.Fprintln(out, n.Log(c))
		}
		return nil
	}
	c, err := component(args[0])
	if err != nil {
		return err
	}
	cat := exec.CommandContext(ctx, "cat", n.Log(c))
	cat.Stdout, cat.Stderr = out, os.Stderr
	return cat.Run()
}

func load(ctx context.Context, n *node.Node, files []string) error {
	for _, file := range files {
		if err := n.LoadImage(ctx, file); err != nil {
			return err
		}
	}
	return nil
}

func restart(ctx context.Context, n *node.Node, args []string) error {
	if len(args) != 1 {
		return errors.New("restart wants the name of one component")
	}
	c, err := component(args[0])
	if err != nil {
		return err
	}
	return n.Restart(ctx, c)
}

func component(name string) (node.Component, error) {
	var names []string
	for _, c := range node.Components() {
		if string(c) == name {
			return c, nil
		}
		names = append(names, string(c))
	}
	return "", fmt.Errorf("unknown component %q; there are %s", name, strings.Join(names, ", "))
}
