// Package status is kubectl mayfly status: every mounted volume, with its content's versions, its
// next refresh, and its last failure.
package status

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/nodes"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/volumes"
)

// wide is the format with more columns.
const wide = "wide"

// command is a command line.
type command struct {
	cluster.Flags
	output  *output.Flags
	streams output.Streams

	options  volumes.Options
	all      bool
	failing  bool
	watch    bool
	interval time.Duration
	by       string
}

// New makes the command.
func New(s output.Streams, o *output.Flags) *cobra.Command {
	c := &command{output: o, streams: s}
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show every mounted volume: its objects and their versions, and the last failure",
		Long: `Show every mounted volume: pod, node, class, objects with their versions, age,
the last and the next refresh, the expiry of credentials, and the last failure.

The SecretProviderClassPodStatuses list the volumes and their objects. Only the
drivers know ages, refreshes and expiries. status asks the driver on each node, by a
port-forward to its pod, and needs the right to that (create pods/portforward in the
driver's namespace). Without it these columns are <unknown>, and a finding says why.
Findings go to standard error.`,
		Example: `  # The volumes of a namespace, of the cluster, and those that fail
  kubectl mayfly status -n shop
  kubectl mayfly status -A
  kubectl mayfly status -A --failing

  # One line per node
  kubectl mayfly status -A --by node

  # The volumes of one class, with every version
  kubectl mayfly status -n shop --class web-secrets -o wide

  # Print the volumes that change
  kubectl mayfly status -n shop --watch

  # Only what the API server knows, without the drivers
  kubectl mayfly status -A --live=false -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	c.Bind(flags)
	flags.BoolVarP(&c.all, "all-namespaces", "A", false, "the volumes of all namespaces")
	flags.StringVar(&c.options.Node, "node", "", "only the volumes of this node")
	flags.StringVar(&c.options.Class, "class", "", "only the volumes of this class")
	flags.StringVar(&c.options.Pod, "pod", "", "only the volumes of this pod")
	flags.BoolVar(&c.failing, "failing", false, "only the volumes whose last mount or refresh failed")
	flags.StringVar(&c.by, "by", "", "print a line for each namespace, node or class instead of one for each volume")
	flags.BoolVar(&c.options.Live, "live", true, "ask the nodes")
	flags.BoolVarP(&c.watch, "watch", "w", false, "keep running, and print volumes that change")
	flags.DurationVar(&c.interval, "interval", 5*time.Second, "the time between two readings of --watch")
	return cmd
}

func (c *command) check() error {
	if err := c.output.Check(wide); err != nil {
		return err
	}
	if c.by != "" && !slices.Contains([]string{"namespace", "node", "class"}, c.by) {
		return fmt.Errorf("--by: must be namespace, node or class, not %q", c.by)
	}
	if c.watch && (c.by != "" || c.output.Format == output.SARIF) {
		return errors.New("--watch: needs the format text, wide or json, and cannot be combined with --by")
	}
	if c.interval < time.Second {
		return fmt.Errorf("--interval: must be at least 1s, not %s", c.interval)
	}
	return nil
}

func (c *command) run(ctx context.Context) error {
	if err := c.check(); err != nil {
		return err
	}
	client, err := c.Connect(c.streams)
	if err != nil {
		return err
	}
	if !c.all {
		c.options.Namespace = client.Namespace
	}
	l := &volumes.Lister{Client: client, Now: c.streams.Time}
	defer l.Close()
	if c.watch {
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return c.follow(ctx, l)
	}
	r := &finding.Report{}
	return c.print(c.list(ctx, l, r), r)
}

func (c *command) list(ctx context.Context, l *volumes.Lister, r *finding.Report) volumes.Listed {
	listed := l.List(ctx, c.options, r)
	if c.failing {
		listed.Volumes = slices.DeleteFunc(listed.Volumes, func(v volumes.Volume) bool { return !v.Failed() })
	}
	return listed
}

// document is the JSON form.
type document struct {
	// Version counts the changes of this form that break readers.
	Version  int               `json:"version"`
	Volumes  []volumes.Volume  `json:"volumes"`
	Nodes    []node            `json:"nodes"`
	Findings []finding.Finding `json:"findings"`
}

// node is a node that was asked.
type node struct {
	Name    string `json:"name"`
	Driver  string `json:"driverVersion,omitempty"`
	Volumes int    `json:"volumes"`
	Failing int    `json:"failing"`
	Error   string `json:"error,omitempty"`
}

func nodesOf(answers []nodes.Answer) []node {
	out := []node{}
	for i := range answers {
		a := &answers[i]
		n := node{Name: a.Node}
		if a.Err != nil {
			n.Error = finding.Printable(cluster.Reason(a.Err))
		} else if about := a.Status.Node; about != nil {
			n.Driver, n.Volumes, n.Failing = finding.Printable(about.Version), about.Volumes, about.Failing
		}
		out = append(out, n)
	}
	return out
}

// print writes the volumes to the standard output and, for text, the findings to the standard
// error: a script reads nothing but a table.
func (c *command) print(listed volumes.Listed, r *finding.Report) error {
	switch c.output.Format {
	case output.SARIF:
		return c.output.Finish(r, c.streams)
	case output.JSON:
		r.Sort()
		d := document{1, append([]volumes.Volume{}, listed.Volumes...), nodesOf(listed.Nodes), append([]finding.Finding{}, r.Findings...)}
		if err := output.EncodeJSON(c.streams.Out, d); err != nil {
			return fmt.Errorf("writing the volumes: %w", err)
		}
		return c.output.Verdict(r)
	}
	t := &table{columns: c.columns(), now: c.streams.Time()}
	var err error
	switch {
	case c.by != "":
		err = writeGroups(c.streams.Out, listed.Volumes, c.by, c.streams.Time())
	case len(listed.Volumes) == 0:
		_, err = fmt.Fprintln(c.streams.Err, "No volumes found.")
	default:
		err = t.write(c.streams.Out, listed.Volumes, true)
	}
	if err != nil {
		return fmt.Errorf("writing the volumes: %w", err)
	}
	return c.output.Aside(r, c.streams)
}
