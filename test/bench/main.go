// Command bench compares mayfly-node with the bare work: the same logins and reads on the same real
// Vault, in parallel, over warm connections, with no driver between. It acts as kubelet on the CSI
// socket, and as an API server with thousands of classes that this node does not use, or starts a
// real one. It reports
// speed and never asserts it; wrong work is a failure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/mayfly-csi/mayfly/test/bench/driver"
	"github.com/mayfly-csi/mayfly/test/bench/sandbox"
	"github.com/mayfly-csi/mayfly/test/toolcache"
)

const usage = `Measures mayfly-node on this machine: go run ./test/bench [flags]

It starts a real Vault, a double of the API server and mayfly-node below a
temporary directory, and prints a table. It needs Linux and Go, and root or user
namespaces, and takes about six minutes, most of which it waits: for intervals
to pass, and for a Vault that is away. Other work on the machine disturbs it.

Flags:
`

// config is the size of the work.
type config struct {
	pods      int
	atOnce    int
	rounds    int
	classes   int
	republish int
	interval  time.Duration

	steadyInterval  time.Duration
	steadyIntervals int
	outage          time.Duration
	akeylessLatency time.Duration
	akeylessCached  time.Duration

	driver                string // a mayfly-node that exists already
	realAPIServer         bool
	only                  string // of alone, the part to measure; empty for all
	short, json, markdown bool
}

func (c *config) declare(f *flag.FlagSet) {
	f.IntVar(&c.pods, "pods", 100, "how many pods, as a `number`")
	f.IntVar(&c.atOnce, "at-once", 50, "how many first publishes at once, as a `number`")
	f.IntVar(&c.rounds, "rounds", 7, "how many measured rounds of first publishes, as a `number`")
	f.IntVar(&c.classes, "classes", 5000, "how many unrelated classes the API server has, as a `number`")
	f.IntVar(&c.republish, "republish", 20, "how often each volume is republished, as a `number`")
	f.DurationVar(&c.interval, "interval", 10*time.Second, "`time` between two refreshes where a change in the store is measured")
	f.DurationVar(&c.steadyInterval, "steady-interval", 5*time.Second, "`time` between two refreshes in steady state, where nothing changes")
	f.IntVar(&c.steadyIntervals, "steady-intervals", 10, "for how many of these intervals requests are counted, as a `number`")
	f.DurationVar(&c.outage, "outage", time.Minute, "`time` for which Vault answers 503; a refresh falls due in every sixth part of it, but at most one a second")
	f.DurationVar(&c.akeylessLatency, "akeyless-latency", 20*time.Millisecond, "`time` after which the double of an Akeyless gateway gives an answer for which it asks Akeyless' service, to the floor as to the driver")
	f.DurationVar(&c.akeylessCached, "akeyless-cached-latency", 2*time.Millisecond, "the same `time` where it answers from its own cache")
	f.StringVar(&c.driver, "mayfly-node", "", "measure this `binary` in place of one built from the source tree")
	f.BoolVar(&c.realAPIServer, "real-api-server", false, "run a real API server in place of the double; it needs etcd in the path, and builds Kubernetes once")
	f.StringVar(&c.only, "only", "", "measure one `part` only: life (the whole life of pods), secrets (a template and a Kubernetes Secret), observed (metrics, audit trail, traces and status), memory (resident memory) or outage (a Vault that answers 503)")
	f.BoolVar(&c.short, "short", false, "do little of everything, to see that it works; the numbers mean less")
	f.BoolVar(&c.json, "json", false, "print JSON in place of the table")
	f.BoolVar(&c.markdown, "markdown", false, "print the table as Markdown")
}

// finish applies --short and refuses invalid settings.
func (c *config) finish() error {
	if c.short {
		c.pods, c.atOnce, c.rounds, c.classes, c.republish, c.interval = 20, 10, 2, 500, 5, 2*time.Second
		c.steadyInterval, c.steadyIntervals, c.outage = 2*time.Second, 2, 6*time.Second
	}
	switch {
	case c.pods < 1, c.atOnce < 1, c.rounds < 1, c.republish < 1, c.classes < 0:
		return errors.New("--pods, --at-once, --rounds and --republish must be at least 1")
	case c.interval < time.Second, c.steadyInterval < time.Second:
		return errors.New("--interval and --steady-interval must be at least 1s")
	case c.steadyIntervals < 1:
		return errors.New("--steady-intervals must be at least 1")
	case c.outage < 2*time.Second:
		return errors.New("--outage must be at least 2s")
	case c.akeylessLatency < 0, c.akeylessCached < 0:
		return errors.New("--akeyless-latency and --akeyless-cached-latency must not be negative")
	case c.only != "" && alone(c.only) == nil:
		return fmt.Errorf("--only=%s is no part: it can be life, secrets, observed, memory or outage", c.only)
	case c.json && c.markdown:
		return errors.New("--json and --markdown exclude each other")
	}
	return nil
}

func main() {
	var c config
	sandbox.Parse("bench", usage, c.declare, func(map[string]bool) error { return c.finish() })
	os.Exit(sandbox.Main(sandbox.Program{Name: "mayfly-bench", Prepare: c.prepare, Run: c.run}))
}

func (c config) prepare(ctx context.Context, dir string) error {
	for _, name := range []string{"kube-apiserver", "kube-controller-manager"} {
		if !c.realAPIServer {
			break
		}
		if _, err := toolcache.Get(ctx, os.Stderr, name); err != nil {
			return err
		}
	}
	fmt.Fprintln(os.Stderr, "building", pluginName)
	if _, err := toolcache.Program(ctx, os.Stderr, dir, "./test/pluginprovider/cmd/"+pluginName); err != nil {
		return err
	}
	return driver.Prepare(ctx, os.Stderr, dir, c.driver)
}

func (c config) run(ctx context.Context, dir string) (err error) {
	w, err := newWorld(ctx, c, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	r, err := measure(ctx, w)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	return r.print(os.Stdout)
}
