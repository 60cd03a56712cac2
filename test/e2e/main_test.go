//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"
)

const tearDownTimeout = 2 * time.Minute

// shared is the environment of all cases. TestMain sets it before any of them.
var shared *environment

func TestMain(m *testing.M) {
	// The tear-down must run even when the reader of the output has ended.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, m)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, m *testing.M) (code int) {
	began := time.Now()
	e := newEnvironment(os.Stderr)
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tearDownTimeout)
		defer cancel()
		if err := e.tearDown(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: tearing down:", err)
			code = max(code, 1)
		}
		fmt.Fprintf(os.Stderr, "e2e: %s in all\n", time.Since(began).Round(time.Second))
	}()
	if err := e.setUp(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: setting up:", err)
		return 1
	}
	// An interrupt ends the cases by stopping their environment; the tear-down then still runs.
	stop := context.AfterFunc(ctx, func() { e.interrupt(errors.New("interrupted")) })
	defer stop()
	e.logf("ready after %s", time.Since(began).Round(100*time.Millisecond))
	shared = e
	code = m.Run()
	e.results.print(os.Stderr)
	return code
}
