package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/collector"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// observedPairs is how many pairs of lives, one with and one without, there are for
// each round.
const observedPairs = 3

// observed compares a driver with everything on that shows what it does with one
// with everything off, one value for each set of pods. The sets with the same index
// ran at the same time, so that what makes the processor slower does so for both.
type observed struct {
	Off shown `json:"off"`
	On  shown `json:"on"`
	// Spans and Lines are the spans and audit lines of the driver with everything on,
	// for all sets with the first.
	Spans int `json:"spans"`
	Lines int `json:"auditLines"`
}

// shown is of one of the two. CPU is until the last span has arrived, for both. Memory
// is with all volumes of a set published.
type shown struct {
	CPU []float64 `json:"cpuMS"`
	RSS []float64 `json:"rssBytes"`

	used time.Duration
}

// count adds the driver's CPU time since the last call.
func (s *shown) count(n *node) error {
	u, err := n.driver.Usage()
	s.CPU, s.used = append(s.CPU, ms(u.CPU-s.used)), u.CPU
	return err
}

// everything is what the driver that shows all is started with: metrics, the audit
// trail with a line for each event, traces of all work, and the status page.
func (n *node) everything(c *collector.Counter) (metrics string, err error) {
	var addresses [2]string
	for i := range addresses {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, l.Close()) }() // the other one must be another
		addresses[i] = l.Addr().String()
	}
	n.args = append(n.args, "--metrics-addr="+addresses[0], "--status-address="+addresses[1],
		"--audit-log="+n.auditLog(), "--audit-level=all", "--enable-otel-tracing")
	// The spans of a life are then sent within it, without a wait for most of the time.
	n.env = append(n.env, "OTEL_EXPORTER_OTLP_ENDPOINT="+c.Endpoint, "OTEL_BSP_SCHEDULE_DELAY=1000")
	return "http://" + addresses[0] + "/metrics", nil
}

func (n *node) auditLog() string { return filepath.Join(n.dir, n.name+"-audit.log") }

// measureObserved runs sets of pods on two drivers. The first set opens the connections
// of both and is not counted.
func measureObserved(ctx context.Context, w *world, r *results) error {
	c, err := collector.StartCounter()
	if err != nil {
		return err
	}
	defer c.Close()
	off, on := w.dirNode("unobserved"), w.dirNode("observed")
	off.args = append(off.args, "--status-address=off")
	metrics, err := on.everything(c)
	if err != nil {
		return err
	}
	return off.while(ctx, func() error {
		return on.while(ctx, func() error { return runBoth(ctx, off, on, metrics, c, &r.Observed) })
	})
}

// runBoth runs sets of pods on both drivers at the same time.
func runBoth(ctx context.Context, off, on *node, metrics string, c *collector.Counter, o *observed) error {
	for i := range observedPairs*on.config.rounds + 1 {
		released := (i + 1) * on.config.pods
		var both errgroup.Group
		both.Go(func() error { return off.show(ctx, i, "", &o.Off) })
		both.Go(func() error { return on.show(ctx, i, metrics, &o.On) })
		err := inOrder(both.Wait, func() error {
			return poll(ctx, time.Minute, "the driver's traces did not arrive", 50*time.Millisecond, func() (bool, error) {
				n, err := c.Spans(string(volume.Released))
				return n == released, err
			})
		})
		if err != nil {
			return err
		}
		if err := errors.Join(o.Off.count(off), o.On.count(on)); err != nil {
			return err
		}
	}
	for _, s := range []*shown{&o.Off, &o.On} {
		s.CPU, s.RSS = s.CPU[1:], s.RSS[1:]
	}
	lines, err := os.ReadFile(on.auditLog())
	if err != nil {
		return err
	}
	if o.Spans, err = c.Spans(""); err != nil {
		return err
	}
	o.Lines = bytes.Count(lines, []byte("\n"))
	say("everything shown: %.0f ms of CPU time for each life, nothing %.0f ms; %d spans, %d audit lines", median(o.On.CPU), median(o.Off.CPU), o.Spans, o.Lines)
	return nil
}

// show runs the life of a set of pods, and reads the metrics once if they have an
// address.
func (n *node) show(ctx context.Context, set int, metrics string, to *shown) error {
	pods := n.pods(fmt.Sprintf("%s-%d", n.name, set), steady, n.world.config.pods)
	return inOrder(
		func() error { return n.publish(ctx, pods) },
		func() error { _, err := n.republishAll(ctx, pods, 1); return err },
		func() error { return scrape(ctx, metrics) },
		func() error {
			u, err := n.driver.Usage()
			to.RSS = append(to.RSS, float64(u.RSS))
			return err
		},
		func() error { return errors.Join(n.unpublish(ctx, pods), n.waitUntilIdle(ctx)) },
	)
}

// scrape reads the metrics, as Prometheus does.
func scrape(ctx context.Context, url string) error {
	if url == "" {
		return nil
	}
	text, err := testkit.Page(ctx, url)
	if err == nil && len(text) == 0 {
		err = errors.New("there are none")
	}
	if err != nil {
		return fmt.Errorf("reading the metrics: %w", err)
	}
	return nil
}

// more is by how many percent each value is larger than the other of its pair, sorted.
func more(values, others []float64) []float64 {
	all := make([]float64, len(values))
	for i, v := range values {
		all[i] = 100 * (v/others[i] - 1)
	}
	slices.Sort(all)
	return all
}

// spreadText says between what half of sorted percentages are.
func spreadText(all []float64) string {
	return fmt.Sprintf("median of %d pairs; half of them from %+.1f to %+.1f %%", len(all), percentile(all, .25), percentile(all, .75))
}

func (r *results) observedRow() row {
	o := r.Observed
	all := more(o.On.CPU, o.Off.CPU)
	cpu, memory := median(all), median(o.On.RSS)-median(o.Off.RSS)
	return row{
		What: fmt.Sprintf("Metrics, audit trail (all), traces (all) and status on, against all of it off: whole life of %d pods, without statuses", r.Size.Pods),
		Measured: fmt.Sprintf("CPU time %+.1f %% (%s), %.0f against %.0f ms; resident memory %.1f against %.1f MB = %+.1f MB; %d spans, %d audit lines",
			cpu, spreadText(all), median(o.On.CPU), median(o.Off.CPU), median(o.On.RSS)/1e6, median(o.Off.RSS)/1e6, memory/1e6, o.Spans, o.Lines),
		Target: fmt.Sprintf("<= %.0f %%, <= %.0f MB", targetObserved, targetObservedMemory/1e6),
		Met:    cpu <= targetObserved && memory <= targetObservedMemory,
	}
}
