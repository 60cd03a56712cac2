package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// starts is how often the start is measured.
const starts = 5

// say prints progress.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

func measure(ctx context.Context, w *world) (*results, error) {
	r := &results{config: w.config, Size: size{
		Pods: w.config.pods, AtOnce: w.atOnce, Rounds: w.rounds, Classes: w.classes, APIServer: w.api.String(),
		Republish: w.republish, Interval: ms(w.interval), Short: w.short,
		SteadyInterval: ms(w.steadyInterval), SteadyIntervals: w.steadyIntervals,
		Outage: ms(w.outage), AkeylessLatency: ms(w.akeylessLatency), AkeylessCached: ms(w.akeylessCached),
	}}
	var err error
	if r.Machine, err = describe(ctx, w); err != nil {
		return nil, err
	}
	if r.Binary, err = sizeOf(w); err != nil {
		return nil, err
	}
	for _, part := range parts(w.config) {
		if err := part.do(ctx, w, r); err != nil {
			return nil, fmt.Errorf("%s: %w", part.what, err)
		}
	}
	return r, nil
}

// part is one that fills in results.
type part struct {
	what string
	do   func(context.Context, *world, *results) error
}

func parts(c config) []part {
	if c.only != "" {
		return []part{alone(c.only).part}
	}
	return []part{
		{"starting the driver", measureStarts},
		{"with classes from the API server", measureAPINode},
		{"with many volumes", measureLarge},
		{"with classes from a directory", measureDirNode},
		alone("life").part,
		alone("secrets").part,
		alone("observed").part,
		{"steady state", measureRest},
		alone("outage").part,
		{"a provider plugin", measurePlugin},
		{"Akeyless", measureAkeyless},
	}
}

// separate is a part that --only can name, with its rows.
type separate struct {
	part
	rows func(*results) []row
}

// alone finds one by its name; nil for none.
func alone(name string) *separate {
	switch name {
	case "life":
		return &separate{part{"the whole life of pods", measureLife}, one((*results).lifeRow)}
	case "secrets":
		return &separate{part{"a template and a Kubernetes Secret", measureSynced}, one((*results).syncedRow)}
	case "observed":
		return &separate{part{"all that shows what the driver does", measureObserved}, one((*results).observedRow)}
	case "memory":
		return &separate{part{"resident memory", measureMemory}, (*results).memoryRows}
	case "outage":
		return &separate{part{"a Vault that goes away", measureOutage}, (*results).outageRows}
	}
	return nil
}

func one(f func(*results) row) func(*results) []row {
	return func(r *results) []row { return []row{f(r)} }
}

// measureMemory measures the memory of drivers that have done what the memory rows stand for.
func measureMemory(ctx context.Context, w *world, r *results) error {
	for _, do := range []func(context.Context, *world, *results) error{measureAPINode, measureLarge, measureDirNode} {
		if err := do(ctx, w, r); err != nil {
			return err
		}
	}
	return nil
}

// measureStarts starts drivers that have no volume.
func measureStarts(ctx context.Context, w *world, r *results) error {
	for i := range starts {
		for _, s := range []struct {
			p *process
			n *node
		}{
			{&r.API, w.apiNode(fmt.Sprintf("start-api-%d", i))},
			{&r.Dir, w.dirNode(fmt.Sprintf("start-dir-%d", i))},
		} {
			if err := s.n.start(ctx); err != nil {
				return err
			}
			s.p.Ready = append(s.p.Ready, ms(s.n.driver.Ready))
			if err := s.n.stop(); err != nil {
				return err
			}
		}
	}
	say("start to ready: %.0f ms with an API server, %.0f ms with a directory", median(r.API.Ready), median(r.Dir.Ready))
	return nil
}

// measureAPINode is the main part: one driver for the rounds, the republishes and the change,
// killed and started again at the end.
func measureAPINode(ctx context.Context, w *world, r *results) (err error) {
	n := w.apiNode("api")
	if err := n.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	if err := measureFirst(ctx, n, &r.First); err != nil {
		return fmt.Errorf("first publishes: %w", err)
	}
	r.ChangeOne.Accounts, r.ChangeAll.Accounts = 1, w.config.pods
	for _, c := range []*changed{&r.ChangeOne, &r.ChangeAll} {
		if err := measureChange(ctx, n, c); err != nil {
			return fmt.Errorf("change in the store: %w", err)
		}
	}
	// The reports on these volumes must not be counted with those on the next.
	say("waiting until the driver has told the API server of the volumes that are gone")
	if err := n.waitForStatuses(ctx, 0); err != nil {
		return err
	}
	return measureSteady(ctx, n, r)
}

// measureSteady measures while volumes do not change: republishes, memory, and the restart.
func measureSteady(ctx context.Context, n *node, r *results) error {
	pods := n.pods("steady", steady, n.config.pods)
	before, err := n.api.Requests()
	if err != nil {
		return err
	}
	if _, err := n.publish(ctx, pods); err != nil {
		return err
	}
	say("waiting until the driver has written what it tells of %d volumes", len(pods))
	if err := n.waitForStatuses(ctx, len(pods)); err != nil {
		return err
	}
	if r.Told, err = n.apiSince(before); err != nil {
		return err
	}
	if err := measureRepublish(ctx, n, pods, &r.Republish); err != nil {
		return fmt.Errorf("republish: %w", err)
	}
	if err := r.API.use(n, pods); err != nil {
		return err
	}
	say("memory with %d volumes: %s", len(pods), r.API.memory())
	if err := measureRestart(ctx, n, pods, &r.Restart); err != nil {
		return fmt.Errorf("restart: %w", err)
	}
	if err := n.check(pods, "1"); err != nil {
		return err
	}
	return n.unpublish(ctx, pods)
}

// timesMore is how many times more volumes the part with many has.
const timesMore = 5

// measureLarge is for the memory of a driver with many volumes.
func measureLarge(ctx context.Context, w *world, r *results) (err error) {
	if err := w.api.Collect(ctx); err != nil {
		return err
	}
	n := w.apiNode("large")
	if err := n.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	pods := n.somePods(timesMore*w.config.pods, "large", steady, w.config.pods)
	if _, err := n.publish(ctx, pods); err != nil {
		return err
	}
	if _, err := n.republishAll(ctx, pods, 1); err != nil {
		return err
	}
	if err := r.Large.use(n, pods); err != nil {
		return err
	}
	say("memory with %d volumes: %s", len(pods), r.Large.memory())
	return n.unpublish(ctx, pods)
}

// measureDirNode is for the memory of a driver without an API server.
func measureDirNode(ctx context.Context, w *world, r *results) (err error) {
	n := w.dirNode("dir")
	if err := n.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	pods := n.pods("dir", steady, w.config.pods)
	if _, err := n.publish(ctx, pods); err != nil {
		return err
	}
	if err := n.check(pods, "1"); err != nil {
		return err
	}
	if _, err := n.republishAll(ctx, pods, w.republish); err != nil {
		return err
	}
	if err := r.Dir.use(n, pods); err != nil {
		return err
	}
	say("memory with %d volumes and a class directory: %s", len(pods), r.Dir.memory())
	return n.unpublish(ctx, pods)
}

// use records the driver's present resource use.
func (p *process) use(n *node, pods podList) error {
	u, err := n.driver.Usage()
	if err != nil {
		return err
	}
	p.RSS, p.Peak, p.PSS, p.CPU = u.RSS, u.Peak, u.PSS, ms(u.CPU)
	p.Tmpfs, err = n.tmpfsBytes(pods)
	return err
}

func measureRepublish(ctx context.Context, n *node, pods podList, r *republished) error {
	if err := n.waitUntilIdle(ctx); err != nil {
		return err
	}
	span, err := n.begin()
	if err != nil {
		return err
	}
	took, err := n.republishAll(ctx, pods, n.config.republish)
	if err != nil {
		return err
	}
	r.Calls, r.P50, r.P99 = len(took), ms(percentile(took, 0.50)), ms(percentile(took, 0.99))
	if r.Vault, r.API, r.CPU, err = span.end(ctx); err != nil {
		return err
	}
	empty, err := n.emptyCalls(ctx, len(took))
	if err != nil {
		return err
	}
	r.Floor = ms(percentile(empty, 0.50))
	say("republish: p50 %.3f ms, p99 %.3f ms, %s to Vault; a call that does nothing %.3f ms", r.P50, r.P99, r.Vault, r.Floor)
	return nil
}

func measureRestart(ctx context.Context, n *node, pods podList, r *restarted) error {
	if err := n.kill(); err != nil {
		return err
	}
	if err := n.waitUntilIdle(ctx); err != nil {
		return err
	}
	span, err := n.begin()
	if err != nil {
		return err
	}
	if err := n.start(ctx); err != nil {
		return err
	}
	r.Ready = ms(n.driver.Ready)
	// Kubelet continues its republishes, which must find every volume.
	if _, err := n.republishAll(ctx, pods, 1); err != nil {
		return err
	}
	if err := n.waitForStatuses(ctx, len(pods)); err != nil {
		return err
	}
	r.Vault, r.API, err = span.requests(ctx)
	say("restart with %d volumes: ready after %.0f ms, %s to Vault", len(pods), r.Ready, r.Vault)
	return err
}

func measureChange(ctx context.Context, n *node, c *changed) (err error) {
	label := fmt.Sprint(c.Accounts)
	pods := n.pods("change-"+label, changing, c.Accounts)
	before, after := "before-"+label, "after-"+label
	if err := n.put(ctx, changing, before); err != nil {
		return err
	}
	if _, err := n.publish(ctx, pods); err != nil {
		return err
	}
	if err := n.check(pods, before); err != nil {
		return err
	}
	span, err := n.begin()
	if err != nil {
		return err
	}
	if err := n.put(ctx, changing, after); err != nil {
		return err
	}
	began := time.Now()
	limit := 3*n.interval + 10*time.Second
	waiting, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	if err := n.waitNew(waiting, pods, after); err != nil {
		return err
	}
	c.AllNew, c.Secrets = ms(time.Since(began)), len(secrets(changing))
	if c.Vault, c.API, c.CPU, err = span.end(ctx); err != nil {
		return err
	}
	say("change with %s: all new after %.2f s, %s", plural(c.Accounts, "service account"), c.AllNew/1000, c.Vault)
	return n.unpublish(ctx, pods)
}

// broughtForward is the part of an interval by which the driver leaves it to
// chance how early a refresh comes. It never comes late.
const broughtForward = 0.05

// measureRest counts the requests for unchanged volumes, interval after interval, with one service
// account and with as many as pods.
func measureRest(ctx context.Context, w *world, r *results) (err error) {
	if err := w.api.Collect(ctx); err != nil {
		return err
	}
	n := w.apiNode("rest")
	n.args = append(n.args, "--sync-secrets")
	if err := n.start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.stop()) }()
	r.RestOne.Accounts, r.RestAll.Accounts = 1, w.config.pods
	for _, s := range []*rested{&r.RestOne, &r.RestAll} {
		if err := n.waitForStatuses(ctx, 0); err != nil {
			return err
		}
		if err := n.lieStill(ctx, s); err != nil {
			return fmt.Errorf("with %s: %w", plural(s.Accounts, "service account"), err)
		}
	}
	return nil
}

// lieStill publishes, waits until the driver has reported the volumes to the API server and has
// refreshed each of them once, and then counts.
func (n *node) lieStill(ctx context.Context, s *rested) error {
	s.Pairs = s.Accounts * len(secrets(resting))
	pods := n.pods(fmt.Sprintf("rest-%d", s.Accounts), resting, s.Accounts)
	if _, err := n.publish(ctx, pods); err != nil {
		return err
	}
	if err := n.waitForStatuses(ctx, len(pods)); err != nil {
		return err
	}
	if err := n.refreshedOnce(ctx, s.Pairs); err != nil {
		return err
	}
	say("counting for %d intervals of %s, with %s", n.steadyIntervals, n.steadyInterval, plural(s.Accounts, "service account"))
	if err := n.window(ctx, s); err != nil {
		return err
	}
	say("steady state: %s; each pair read %d to %d times", s.Vault, s.Least, s.Most)
	if err := n.check(pods, "1"); err != nil {
		return err
	}
	return n.unpublish(ctx, pods)
}

// window counts from one moment until the intervals have passed. The times in Vault's audit log say
// which requests are within.
func (n *node) window(ctx context.Context, s *rested) error {
	mark, err := n.vault.Mark()
	if err != nil {
		return err
	}
	span, err := n.begin()
	if err != nil {
		return err
	}
	began := time.Now()
	end := began.Add(time.Duration(n.steadyIntervals) * n.steadyInterval)
	if err := pause(ctx, end); err != nil {
		return err
	}
	if _, s.API, s.CPU, err = span.end(ctx); err != nil {
		return err
	}
	entries, err := n.vault.AuditEntriesSince(ctx, mark)
	if err != nil {
		return err
	}
	entries = within(entries, began, end)
	s.Vault = countRequests(entries)
	return s.perPair(readsByPair(entries))
}

// refreshedOnce waits until each pair was read again: a first refresh may ask what later ones know,
// such as whether Vault has versions.
func (n *node) refreshedOnce(ctx context.Context, pairs int) error {
	limit := 3*n.steadyInterval + 10*time.Second
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not all of %d pairs are read within %s", pairs, limit))
	defer cancel()
	mark, err := n.vault.Mark()
	for err == nil {
		var entries []vaulttest.AuditEntry
		if entries, err = n.vault.AuditEntriesSince(ctx, mark); err == nil && len(readsByPair(entries)) >= pairs {
			return nil
		}
		err = errors.Join(err, pause(ctx, time.Now().Add(n.steadyInterval/20)))
	}
	return err
}

type pair struct{ identity, path string }

// readsByPair counts the reads of the pods.
func readsByPair(entries []vaulttest.AuditEntry) map[pair]int {
	requests := map[string]pair{}
	for _, e := range entries {
		if e.DisplayName != "" && e.DisplayName != "root" && isRead(e.Path) {
			requests[e.RequestID] = pair{e.DisplayName, e.Path}
		}
	}
	counts := map[pair]int{}
	for _, p := range requests {
		counts[p]++
	}
	return counts
}

// within returns the requests that reached Vault from began until before end.
func within(entries []vaulttest.AuditEntry, began, end time.Time) []vaulttest.AuditEntry {
	arrived := map[string]time.Time{}
	var inside []vaulttest.AuditEntry
	for _, e := range entries {
		if _, ok := arrived[e.RequestID]; !ok {
			arrived[e.RequestID] = e.Time
		}
		if at := arrived[e.RequestID]; !at.Before(began) && at.Before(end) {
			inside = append(inside, e)
		}
	}
	return inside
}

// perPair records how often each pair was read. A read of a pair that no pod has is wrong work; a
// missing read is late work, and shows.
func (s *rested) perPair(counts map[pair]int) error {
	if len(counts) == 0 || len(counts) > s.Pairs {
		return fmt.Errorf("%d pairs of identity and secret were read, of %d", len(counts), s.Pairs)
	}
	s.Least = math.MaxInt
	for _, n := range counts {
		s.Least, s.Most = min(s.Least, n), max(s.Most, n)
	}
	if len(counts) < s.Pairs {
		s.Least = 0
	}
	return nil
}

// expected is how often a pair is read within whole intervals that begin at any moment: once in
// each, and once more for the sum of the random shortening.
func expected(intervals int) (least, most int) {
	return intervals, int(math.Ceil(float64(intervals) / (1 - broughtForward)))
}
