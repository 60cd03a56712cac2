// Command demo shows, on one machine and in a few seconds, what Mayfly does: a real Vault, the real
// driver as a process of its own, and a kubelet that is simulated over the CSI socket. It checks
// everything that it shows, and fails if anything is different.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/mayfly-csi/mayfly/test/bench/driver"
	"github.com/mayfly-csi/mayfly/test/bench/sandbox"
)

const usage = `Shows a secret's way from Vault into a pod: go run ./test/demo [flags]

It starts a real Vault and mayfly-node below a temporary directory, plays
kubelet for one pod, and leaves nothing behind. It needs Linux and Go, and root
or user namespaces. NO_COLOR switches colours off.

Flags:
`

type options struct {
	driver string // a mayfly-node that exists already
	logs   bool
}

func main() {
	var o options
	sandbox.Parse("demo", usage, func(f *flag.FlagSet) {
		f.StringVar(&o.driver, "mayfly-node", "", "show this `binary` in place of one built from the source tree")
		f.BoolVar(&o.logs, "logs", false, "show the driver's log too")
	}, nil)
	os.Exit(sandbox.Main(sandbox.Program{Name: "mayfly-demo", Prepare: o.prepare, Run: o.run}))
}

// prepare builds what is missing. The first time, that includes all of Vault.
func (o options) prepare(ctx context.Context, dir string) error {
	return driver.Prepare(ctx, os.Stdout, dir, o.driver)
}

func (o options) run(ctx context.Context, dir string) error {
	began := time.Now()
	if o.driver == "" {
		o.driver = filepath.Join(dir, "mayfly-node")
	}
	s := newScreen(os.Stdout, os.Getenv)
	w := &world{dir: dir, options: o}
	err := show(ctx, s, w)
	if e := w.Close(); e != nil {
		err = errors.Join(err, fmt.Errorf("tidying up: %w", e))
	}
	if err == nil {
		s.end(time.Since(began))
	}
	return err
}

// step is one part of the demo. Its error says what is different than it should be.
type step struct {
	title string
	do    func(ctx context.Context, s *screen, w *world) error
}

func steps() []step {
	return []step{
		{"A Vault, and the driver", start},
		{"The class: what the pod asks for", showClass},
		{"Kubelet publishes the volume of pod shop/web-0", publish},
		{"What the pod sees", showFiles},
		{"Who read it, says Vault's audit log", showAudit},
		{"The password changes in Vault, and then in the file", rotate},
		{"Another service account tries the same", deny},
		{"The pod goes", unpublish},
	}
}

func show(ctx context.Context, s *screen, w *world) error {
	for i, step := range steps() {
		s.title(i+1, step.title)
		err := step.do(ctx, s, w)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("step %d (%s) failed: %w%s", i+1, step.title, err, w.logs())
		}
	}
	return nil
}
