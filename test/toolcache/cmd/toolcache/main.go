// Command toolcache builds the programs named on its command line, unless they
// are cached already, and prints their paths.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/mayfly-csi/mayfly/test/toolcache"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: toolcache TOOL...\n\nBuilds the tools, once, and prints their paths. The tools:")
		for _, tool := range toolcache.Known() {
			fmt.Fprintf(os.Stderr, "  %-16s from %s\n", tool.Name, tool.ModuleDir)
		}
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	for _, name := range os.Args[1:] {
		path, err := toolcache.Get(ctx, os.Stderr, name)
		if err != nil {
			fmt.Fprintln(os.Stderr, "toolcache:", err)
			os.Exit(1)
		}
		fmt.Println(path)
	}
}
