// Command hostile lets one tenant of a node attack the driver in every way that the rights of a
// namespace's editor allow, all at once, while another tenant's volumes must keep their interval.
// The driver is the real one, under the chart's memory limit; the Vault that both tenants share is
// real too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/mayfly-csi/mayfly/test/bench/driver"
	"github.com/mayfly-csi/mayfly/test/bench/sandbox"
)

const usage = `Attacks mayfly-node as a hostile tenant would: go run ./test/hostile [flags]

It starts a real Vault, a double of the API server, the hostile tenant's servers
and, in a memory cgroup with the chart's limit, mayfly-node, and plays kubelet.
One tenant attacks in all ways at once; the other has volumes whose secrets
change in every interval, and pods that come and go. It prints what came of each
attack, the refreshes that the other tenant missed, the driver's restarts, and
the peak of memory. It fails where any of that is not as it must be. It needs
Linux, Go and root, uses loopback only, and takes about two minutes.

Flags:
`

type config struct {
	duration, interval time.Duration
	limit              int64
	noCgroup           bool
	short, each, list  bool
	answers            bool
	only               []string
	driver, logs       string
	driverFlags        []string
}

func (c *config) declare(f *flag.FlagSet) {
	f.DurationVar(&c.duration, "duration", 75*time.Second, "`time` for which the attacks last; with --each for each of them")
	f.DurationVar(&c.interval, "interval", 3*time.Second, "`time` between two refreshes of the good tenant, and between two changes of its secrets")
	f.Func("memory-limit", "limit of the driver's memory, as a `quantity`; that of the chart's values if not given", func(text string) error {
		q, err := resource.ParseQuantity(text)
		c.limit = q.Value()
		return err
	})
	f.BoolVar(&c.noCgroup, "no-cgroup", false, "set no limit of memory, for machines where no cgroup can be made; this proves less")
	f.BoolVar(&c.short, "short", false, "attack for 20s only")
	f.BoolVar(&c.each, "each", false, "do one attack after the other, each against a new driver, for 20s, to see which one does the harm")
	f.BoolVar(&c.list, "list", false, "list the attacks and end")
	f.Func("only", "`names` of attacks, separated by commas; the others are left out", func(text string) error {
		c.only = append(c.only, strings.Split(text, ",")...)
		return nil
	})
	f.StringVar(&c.driver, "mayfly-node", "", "attack this `binary` in place of one built from the source tree")
	f.BoolVar(&c.answers, "answers", false, "print how the driver refused each attack")
	f.StringVar(&c.logs, "logs", "", "append what the driver logs to this `file`")
	f.Func("driver-flag", "a further `flag` for the driver; may be given more than once", func(text string) error {
		c.driverFlags = append(c.driverFlags, text)
		return nil
	})
}

const shortDuration = 20 * time.Second

// finish applies --short and --each, and refuses invalid settings.
func (c *config) finish(given map[string]bool) error {
	if (c.short || c.each) && !given["duration"] {
		c.duration = shortDuration
	}
	if c.limit == 0 {
		var err error
		if c.limit, err = chartLimit(); err != nil {
			return err
		}
	}
	if c.duration < 10*time.Second || c.interval < time.Second {
		return errors.New("--duration must be at least 10s, and --interval at least 1s")
	}
	_, err := c.attacks()
	return err
}

// attacks are those to do.
func (c *config) attacks() ([]attack, error) {
	all := attacks()
	if len(c.only) == 0 {
		return all, nil
	}
	var some []attack
	for _, name := range c.only {
		i := slices.IndexFunc(all, func(a attack) bool { return a.name == name })
		if i < 0 {
			return nil, fmt.Errorf("--only: there is no attack %q; --list has them", name)
		}
		some = append(some, all[i])
	}
	return some, nil
}

func main() {
	var c config
	sandbox.Parse("hostile", usage, c.declare, c.finish)
	if c.list {
		for _, a := range attacks() {
			fmt.Printf("%-22s %s\n", a.name, a.does)
		}
		return
	}
	os.Exit(sandbox.Main(sandbox.Program{Name: "mayfly-hostile", Prepare: c.prepare, Run: c.run}))
}

func (c config) prepare(ctx context.Context, dir string) error {
	return driver.Prepare(ctx, os.Stderr, dir, c.driver)
}

func (c config) run(ctx context.Context, dir string) error {
	binary := c.driver
	if binary == "" {
		binary = filepath.Join(dir, "mayfly-node")
	}
	list, err := c.attacks()
	if err != nil {
		return err
	}
	if c.each {
		results, err := each(ctx, c, filepath.Join(dir, "run"), binary, list)
		printEach(os.Stdout, results)
		for _, r := range results {
			if c.answers {
				r.printAnswers(os.Stdout)
			}
		}
		for _, r := range results {
			if failed := r.failed(); failed != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", r.rows[0].name, failed))
			}
		}
		return err
	}
	say("%d attacks at once for %s, after %d quiet intervals of %s", len(list), c.duration, calmIntervals, c.interval)
	r, err := attackRun(ctx, c, filepath.Join(dir, "run"), binary, list)
	if err != nil {
		return err
	}
	r.print(os.Stdout)
	if c.answers {
		r.printAnswers(os.Stdout)
	}
	return r.failed()
}
