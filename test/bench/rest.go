package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

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
