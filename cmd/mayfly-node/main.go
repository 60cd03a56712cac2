// Command mayfly-node is the Mayfly CSI node driver: one process per node
// that gives pods their secrets as files in a private tmpfs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/node"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// run is main with its environment as parameters. It returns the exit code: 2 for an invalid
// command line, 1 for a driver that failed.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == mountedCommand {
		return mounted(ctx, args[1:], stdout, stderr)
	}
	if len(args) > 0 && args[0] == auditCommand {
		return auditTool(args[1:], os.Stdin, stdout, stderr)
	}
	o, err := parse(args, getenv, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "mayfly-node: %v\nRun mayfly-node --help for the flags.\n", err)
		return 2
	case o.version:
		fmt.Fprintf(stdout, "mayfly-node %s %s %s/%s\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return 0
	}
	o.config.Stdout = stdout
	log := newLogger(o, stderr)
	if err := serve(ctx, o, log); err != nil {
		log.Error("mayfly-node stops", logkey.Error, err)
		return 1
	}
	log.Info("mayfly-node stopped; volumes stay as they are")
	return 0
}

func serve(ctx context.Context, o *options, log *slog.Logger) error {
	// Who reads the log or the audit trail may end. That must not end the driver.
	signal.Ignore(syscall.SIGPIPE)
	if err := harden(); err != nil {
		return err
	}
	limitMemory(&o.config)
	klog.SetSlogLogger(log)
	o.config.Logger = log
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	o.config.RefreshNow = hangup
	for {
		n, err := node.New(o.config)
		if err != nil {
			return err
		}
		err = n.Run(ctx)
		if !errors.Is(err, node.ErrSuspended) || ctx.Err() != nil {
			return err
		}
		log.Info("starting again from the records of the volumes", logkey.Reason, err)
	}
}

// harden keeps secrets out of core dumps, and other processes from reading them with ptrace.
func harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("switching core dumps off: %w", err)
	}
	return nil
}

// limitMemory makes the garbage collector run more often, for a small process, and keeps the heap
// within the container's memory limit, unless the operator has set GOGC or GOMEMLIMIT.
func limitMemory(c *node.Config) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(75)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		c.SetMemoryLimit = debug.SetMemoryLimit
	}
}

func newLogger(o *options, w io.Writer) *slog.Logger {
	h := &slog.HandlerOptions{Level: o.logLevel}
	if o.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, h))
	}
	return slog.New(slog.NewTextHandler(w, h))
}
