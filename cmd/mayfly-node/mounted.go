package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/pkg/status"
)

// mountedCommand counts the mounted volumes of the cluster. The chart runs it
// before an uninstall.
const mountedCommand = "mounted"

const mountedHelp = `mayfly-node mounted counts the driver's mounted volumes in the whole cluster.

It reads the SecretProviderClassPodStatuses. The exit code is 0 where nothing is
mounted, 1 where something is, and 2 where it could not look. The chart runs it
before an uninstall: without the driver the pods of mounted volumes cannot end.

Flags:
`

// mounted returns the exit code.
func mounted(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	f := flag.NewFlagSet("mayfly-node "+mountedCommand, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	driver := f.String("driver-name", defaultDriver, "the name of the CSIDriver object")
	kubeconfig := f.String("kubeconfig", "", "the kubeconfig file; empty within a cluster")
	err := f.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(stdout, mountedHelp)
		f.SetOutput(stdout)
		f.PrintDefaults()
		return 0
	case err == nil && f.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if err != nil {
		fmt.Fprintf(stderr, "mayfly-node %s: %v\nRun mayfly-node %s --help for the flags.\n", mountedCommand, err, mountedCommand)
		return 2
	}
	cluster, err := node.RESTConfig(*kubeconfig)
	if err != nil {
		fmt.Fprintf(stderr, "mayfly-node %s: %v\n", mountedCommand, err)
		return 2
	}
	count, err := status.CountMounted(ctx, cluster, *driver)
	if err != nil {
		fmt.Fprintf(stderr, "mayfly-node %s: listing secretproviderclasspodstatuses: %v\n", mountedCommand, err)
		return 2
	}
	return printMounted(count, *driver, stdout)
}

func printMounted(count map[string]int, driver string, w io.Writer) int {
	total := 0
	for _, n := range count {
		total += n
	}
	if total == 0 {
		fmt.Fprintf(w, "no volume of driver %s is mounted\n", driver)
		return 0
	}
	fmt.Fprintf(w, "volumes of driver %s are mounted, %d in all. Without the driver their pods cannot end: delete these pods first.\n", driver, total)
	for _, namespace := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprintf(w, "  namespace %s: %d\n", namespace, count[namespace])
	}
	fmt.Fprint(w, "This lists them:\n  kubectl get secretproviderclasspodstatuses --all-namespaces\n")
	return 1
}
