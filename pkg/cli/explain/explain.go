// Package explain finds out why a pod does not have its secrets: it follows the chain from the pod
// to the store and back, and stops at the first broken link.
package explain

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/mayfly-csi/mayfly/pkg/cli/cluster"
	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
)

// New makes the command.
func New(s output.Streams, o *output.Flags) *cobra.Command {
	var at cluster.Flags
	var verbose bool
	cmd := &cobra.Command{
		Use:   "explain TYPE/NAME",
		Short: "Find out why a pod does not get its secrets",
		Long: `Find out why a pod does not get its secrets.

explain checks the pod, its node, the driver on that node, the CSIDriver object, the
class, the service account, the store, the files and the containers, in this order.
It prints each step and stops at the first failure, with what to do. Then it prints
further warnings. For a workload it explains the pod with the worst failure, and says
how many other pods have the same.

It trusts objects more than Events, and ignores outdated Events. If you may not read
an object, that is a warning, never a success. To find most causes you need the right
to get and list pods, events, service accounts, secretproviderclasses and
secretproviderclasspodstatuses in the namespace. nodes, csinodes, csidrivers and the
pods of the driver show the others. With the right to forward a port to the driver's
pod, explain also asks the driver for the state of the volume.`,
		Example: `  # A pod, and the worst pod of a Deployment
  kubectl mayfly explain pod/web-0
  kubectl mayfly explain deployment/web -n shop

  # A Job, as JSON
  kubectl mayfly explain job migrate -o json

  # With the exit code 1 for warnings too, such as a failing refresh
  kubectl mayfly explain statefulset/db --fail-on warning`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.Check(); err != nil {
				return err
			}
			t, err := parseTarget(args)
			if err != nil {
				return err
			}
			client, err := at.Connect(s)
			if err != nil {
				return err
			}
			began := time.Now()
			r, err := explain(cmd.Context(), client, s.Time(), t)
			if verbose {
				fmt.Fprintf(s.Err, "%s in %d ms\n", output.Plural(client.Requests(), "request"), time.Since(began).Milliseconds())
			}
			if err != nil {
				return err
			}
			return o.Finish(r, s)
		},
	}
	at.Bind(cmd.Flags())
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "print the number of requests on standard error")
	return cmd
}

// explain reads all objects first, and then follows the chain.
func explain(ctx context.Context, client *cluster.Client, now time.Time, t target) (*finding.Report, error) {
	if ctx == nil {
		ctx = context.Background()
	}
	l := &look{Client: client, now: now}
	set, err := l.find(ctx, t)
	if err != nil {
		return nil, err
	}
	w := &walk{look: l, report: &finding.Report{}, set: set}
	if w.noPods() {
		return w.done(), nil
	}
	l.at(ctx, set.worst)
	if err := w.prepare(); err != nil {
		return nil, err
	}
	w.links(ctx)
	podLinks{w}.odd()
	return w.done(), nil
}
