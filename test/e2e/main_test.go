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

// tearDownTimeout bounds the tear-down, whatever state the node is in by then.
const tearDownTimeout = 2 * time.Minute

// shared is the environment of all cases. TestMain sets it before any of them.
var shared *world

func TestMain(m *testing.M) {
	// The reader of the output may be gone by the time of the tear-down.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, m)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, m *testing.M) (code int) {
	began := time.Now()
	w := newWorld(os.Stderr)
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tearDownTimeout)
		defer cancel()
		if err := w.tearDown(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: tearing down:", err)
			code = max(code, 1)
		}
		fmt.Fprintf(os.Stderr, "e2e: %s in all\n", time.Since(began).Round(time.Second))
	}()
	if err := w.setUp(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "e2e: setting up:", err)
		return 1
	}
	// An interrupt ends the cases by stopping their environment; the tear-down then still runs.
	stop := context.AfterFunc(ctx, func() { w.interrupt(errors.New("interrupted")) })
	defer stop()
	w.say("ready after %s", time.Since(began).Round(100*time.Millisecond))
	shared = w
	code = m.Run()
	w.results.print(os.Stderr)
	return code
}
