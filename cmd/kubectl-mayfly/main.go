// Command kubectl-mayfly is a plugin of kubectl that finds out why a secret
// does not arrive.
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
		debug.SetGCPercent(30) // a laptop's memory is dearer than a tenth of a second
	}
	os.Exit(cli.Run(os.Args[1:], output.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Version: version}))
}
