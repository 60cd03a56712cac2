package main

import (
	"context"
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
		{"with classes from the API server", onAPINode("api", measureAPINode)},
		{"with many volumes", onAPINode("large", measureLarge)},
		{"with classes from a directory", measureDirNode},
		alone("life").part,
		alone("secrets").part,
		alone("observed").part,
		{"steady state", onAPINode("rest", measureRest, "--sync-secrets")},
		alone("outage").part,
		{"a provider plugin", measurePlugin},
		{"Akeyless", onAPINode("akeyless", measureAkeyless, "--akeyless-share-by-service-account")},
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
		return &separate{part{"the whole life of pods", onAPINode("life", measureLife)}, one((*results).lifeRow)}
	case "secrets":
		return &separate{part{"a template and a Kubernetes Secret", onAPINode("synced", measureSynced, "--sync-secrets")}, one((*results).syncedRow)}
	case "observed":
		return &separate{part{"all that shows what the driver does", measureObserved}, one((*results).observedRow)}
	case "memory":
		return &separate{part{"resident memory", measureMemory}, (*results).memoryRows}
	case "outage":
		return &separate{part{"a Vault that goes away", onAPINode("outage", measureOutage)}, (*results).outageRows}
	}
	return nil
}

// onAPINode has a driver with classes from the API server for the time of a part.
func onAPINode(name string, do func(context.Context, *node, *results) error, flags ...string) func(context.Context, *world, *results) error {
	return func(ctx context.Context, w *world, r *results) error {
		if err := w.api.Collect(ctx); err != nil {
			return err
		}
		n := w.apiNode(name, flags...)
		return n.while(ctx, func() error { return do(ctx, n, r) })
	}
}

func one(f func(*results) row) func(*results) []row {
	return func(r *results) []row { return []row{f(r)} }
}

// measureMemory measures the memory of drivers that have done what the memory rows stand for.
func measureMemory(ctx context.Context, w *world, r *results) error {
	return inOrder(
		func() error { return onAPINode("api", measureAPINode)(ctx, w, r) },
		func() error { return onAPINode("large", measureLarge)(ctx, w, r) },
		func() error { return measureDirNode(ctx, w, r) },
	)
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
			if err := s.n.while(ctx, func() error { return nil }); err != nil {
				return err
			}
			s.p.Ready = append(s.p.Ready, ms(s.n.driver.Ready))
		}
	}
	say("start to ready: %.0f ms with an API server, %.0f ms with a directory", median(r.API.Ready), median(r.Dir.Ready))
	return nil
}

// measureAPINode is the main part: one driver for the rounds, the republishes and the change,
// killed and started again at the end.
func measureAPINode(ctx context.Context, n *node, r *results) error {
	if err := measureFirst(ctx, n, &r.First); err != nil {
		return fmt.Errorf("first publishes: %w", err)
	}
	r.ChangeOne.Accounts, r.ChangeAll.Accounts = 1, n.config.pods
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
	return inOrder(
		func() error { return n.publish(ctx, pods) },
		func() error {
			say("waiting until the driver has written what it tells of %d volumes", len(pods))
			return n.waitForStatuses(ctx, len(pods))
		},
		func() (err error) { r.Told, err = n.apiSince(before); return err },
		func() error { return measureRepublish(ctx, n, pods, &r.Republish) },
		func() error { return r.API.use(n, pods) },
		func() error { return measureRestart(ctx, n, pods, &r.Restart) },
		func() error { return n.unpublishGood(ctx, pods) },
	)
}

// timesMore is how many times more volumes the part with many has.
const timesMore = 5

// measureLarge is for the memory of a driver with many volumes.
func measureLarge(ctx context.Context, n *node, r *results) error {
	return n.remember(ctx, n.somePods(timesMore*n.config.pods, "large", steady, n.config.pods), 1, &r.Large)
}

// measureDirNode is for the memory of a driver without an API server.
func measureDirNode(ctx context.Context, w *world, r *results) error {
	n := w.dirNode("dir")
	return n.while(ctx, func() error {
		return n.remember(ctx, n.pods("dir", steady, w.config.pods), w.republish, &r.Dir)
	})
}

// remember records the driver's resource use with volumes that were republished.
func (n *node) remember(ctx context.Context, pods podList, republishes int, p *process) error {
	return inOrder(
		func() error { return n.publish(ctx, pods) },
		func() error { _, err := n.republishAll(ctx, pods, republishes); return err },
		func() error { return p.use(n, pods) },
		func() error { return n.unpublishGood(ctx, pods) },
	)
}

// use records the driver's present resource use.
func (p *process) use(n *node, pods podList) error {
	u, err := n.driver.Usage()
	if err != nil {
		return err
	}
	p.RSS, p.Peak, p.PSS, p.CPU = u.RSS, u.Peak, u.PSS, ms(u.CPU)
	p.Tmpfs, err = n.tmpfsBytes(pods)
	say("memory with %d volumes on node %s: %s", len(pods), n.name, p.memory())
	return err
}

func measureRepublish(ctx context.Context, n *node, pods podList, r *republished) (err error) {
	var took, empty []time.Duration
	err = inOrder(
		func() error { return n.waitUntilIdle(ctx) },
		func() (err error) {
			r.spent, err = n.spending(ctx, func() (err error) {
				took, err = n.republishAll(ctx, pods, n.config.republish)
				return err
			})
			return err
		},
		func() (err error) { empty, err = n.emptyCalls(ctx, len(took)); return err },
	)
	if err != nil {
		return err
	}
	r.Calls, r.P50, r.P99 = len(took), ms(percentile(took, 0.50)), ms(percentile(took, 0.99))
	r.Floor = ms(percentile(empty, 0.50))
	say("republish: p50 %.3f ms, p99 %.3f ms, %s to Vault; a call that does nothing %.3f ms", r.P50, r.P99, r.Vault, r.Floor)
	return nil
}

func measureRestart(ctx context.Context, n *node, pods podList, r *restarted) (err error) {
	if err := n.kill(); err != nil {
		return err
	}
	if err := n.waitUntilIdle(ctx); err != nil {
		return err
	}
	r.spent, err = n.spending(ctx, func() error {
		return inOrder(
			func() error { return n.start(ctx) },
			func() error { r.Ready = ms(n.driver.Ready); return nil },
			// Kubelet continues its republishes, which must find every volume.
			func() error { _, err := n.republishAll(ctx, pods, 1); return err },
			func() error { return n.waitForStatuses(ctx, len(pods)) },
		)
	})
	say("restart with %d volumes: ready after %.0f ms, %s to Vault", len(pods), r.Ready, r.Vault)
	return err
}

func measureChange(ctx context.Context, n *node, c *changed) (err error) {
	label := fmt.Sprint(c.Accounts)
	pods := n.pods("change-"+label, changing, c.Accounts)
	before, after := "before-"+label, "after-"+label
	err = inOrder(
		func() error { return n.put(ctx, changing, before) },
		func() error { return n.publish(ctx, pods) },
		func() error { return n.check(pods, before) },
	)
	if err != nil {
		return err
	}
	c.spent, err = n.spending(ctx, func() error {
		if err := n.put(ctx, changing, after); err != nil {
			return err
		}
		began := time.Now()
		err := n.waitNew(ctx, 3*n.interval+10*time.Second, pods, after)
		c.AllNew, c.Secrets = ms(time.Since(began)), len(secrets(changing))
		return err
	})
	if err != nil {
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
func measureRest(ctx context.Context, n *node, r *results) error {
	r.RestOne.Accounts, r.RestAll.Accounts = 1, n.config.pods
	for _, s := range []*rested{&r.RestOne, &r.RestAll} {
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
	return inOrder(
		func() error { return n.waitForStatuses(ctx, 0) },
		func() error { return n.publish(ctx, pods) },
		func() error { return n.waitForStatuses(ctx, len(pods)) },
		func() error { return n.refreshedOnce(ctx, s.Pairs) },
		func() error { return n.window(ctx, s) },
		func() error { return n.unpublishGood(ctx, pods) },
	)
}

// window counts from one moment until the intervals have passed. The times in Vault's audit log say
// which requests are within.
func (n *node) window(ctx context.Context, s *rested) error {
	say("counting for %d intervals of %s, with %s", n.steadyIntervals, n.steadyInterval, plural(s.Accounts, "service account"))
	mark, err := n.vault.Mark()
	if err != nil {
		return err
	}
	began := time.Now()
	end := began.Add(time.Duration(n.steadyIntervals) * n.steadyInterval)
	if s.spent, err = n.spending(ctx, func() error { return pause(ctx, end) }); err != nil {
		return err
	}
	entries, err := n.vault.AuditEntriesSince(ctx, mark)
	if err != nil {
		return err
	}
	entries = within(entries, began, end)
	s.Vault = countRequests(entries)
	err = s.perPair(readsByPair(entries))
	say("steady state: %s; each pair read %d to %d times", s.Vault, s.Least, s.Most)
	return err
}

// refreshedOnce waits until each pair was read again: a first refresh may ask what later ones know,
// such as whether Vault has versions.
func (n *node) refreshedOnce(ctx context.Context, pairs int) error {
	mark, err := n.vault.Mark()
	if err != nil {
		return err
	}
	missing := fmt.Sprintf("not all of %d pairs are read", pairs)
	return poll(ctx, 3*n.steadyInterval+10*time.Second, missing, n.steadyInterval/20, func() (bool, error) {
		entries, err := n.vault.AuditEntriesSince(ctx, mark)
		return len(readsByPair(entries)) >= pairs, err
	})
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
