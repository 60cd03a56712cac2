// Command kubectl-mayfly is a plugin of kubectl that finds out why a secret
// does not arrive.
package main

import (
	"os"

	"github.com/mayfly-csi/mayfly/pkg/cli"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
)

// version is set by the linker.
var version = "dev"

func main() {
	os.Exit(cli.Run(os.Args[1:], output.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Version: version}))
}
