// Command kubectl-mayfly is a plugin of kubectl that finds out why a secret does not arrive in a
// pod.
package main

import (
	"os"
	"runtime/debug"

	"github.com/mayfly-csi/mayfly/pkg/cli"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
)

// version is set by the linker.
var version = "dev"

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(30) // saves memory for a tenth of a second of CPU time
	}
	os.Exit(cli.Run(os.Args[1:], output.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Version: version}))
}
