// Command mayfly-kms encrypts a cluster's Secrets in etcd: a KMS v2 plugin of the API server on
// Vault's or OpenBao's Transit engine, and the tools that verify that everything is encrypted.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/mayfly-csi/mayfly/pkg/kms/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv, Version: version}))
}
