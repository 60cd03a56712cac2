package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// say prints progress.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "hostile: "+format+"\n", args...) }

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func fileSize(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// print writes the table and the figures.
func (r result) print(w io.Writer) {
	name, tried := len("attack"), len("tried")
	for _, row := range r.rows {
		name, tried = max(name, len(row.name)), max(tried, len(row.tried))
	}
	line := func(a, b, c string) {
		fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%-*s  %-*s  %s", name, a, tried, b, c), " "))
	}
	fmt.Fprintln(w)
	line("attack", "tried", "outcome")
	for _, row := range r.rows {
		line(row.name, row.tried, row.verdict.String())
	}
	fmt.Fprintln(w)
	g, n := r.good, r.node
	fmt.Fprintf(w, "refreshes missed  %d of %d (the slowest after %s)\n", g.Missed, g.Values, g.Worst.Round(10*time.Millisecond))
	fmt.Fprintf(w, "restarts          %d (killed for want of memory %d times, by the liveness probe %d times, of which %d failed)\n", n.Restarts, n.Kills, n.Unhealthy, n.FailedProbes)
	fmt.Fprintf(w, "peak memory       %s\n", r.peak())
	fmt.Fprintf(w, "pods of the good tenant: %d came and went; %d publishes (slowest %s) and %d unpublishes (slowest %s) failed, %d of %d revocations were late; %d reads found no file\n",
		g.Pods, g.FailedPublishes, g.WorstPublish.Round(10*time.Millisecond), g.FailedUnpublishes, g.WorstUnpublish.Round(10*time.Millisecond), g.LateRevocations, g.Revocations, g.Gaps)
	fmt.Fprintf(w, "pods of the hostile tenant: %d of %d could not be unpublished within %s of the attacks' end\n", r.stuck, r.left, leaveLimit)
	for _, text := range append(n.Endings, g.Problems...) {
		fmt.Fprintf(w, "  %s\n", text)
	}
}

func (r result) peak() string {
	n := r.node
	if r.limit == 0 {
		return fmt.Sprintf("%s of the process; NO LIMIT OF MEMORY was set (--no-cgroup)", mib(n.PeakProcess))
	}
	return fmt.Sprintf("%s of a limit of %s (of the process %s, in tmpfs %s, of the kernel %s, each at its own moment)",
		mib(n.PeakGroup), mib(r.limit), mib(n.PeakProcess), mib(n.PeakShared), mib(n.PeakKernel))
}

// String is for the table.
func (v verdict) String() string {
	word := "held"
	switch {
	case v.through:
		word = "BROKE THROUGH"
	case v.untried:
		return "NOT TRIED: the driver answered none of its calls"
	}
	if v.text == "" {
		return word
	}
	return word + ": " + v.text
}

// printAnswers writes how the driver last refused each attack.
func (r result) printAnswers(w io.Writer) {
	for _, row := range r.rows {
		if row.answered != "" {
			fmt.Fprintf(w, "\n%s was last refused:\n  %s\n", row.name, row.answered)
		}
	}
}

// clip keeps the beginning and the end of a long text.
func clip(text string) string {
	const most = 600
	if len(text) > most {
		return text[:most/2] + " ... " + text[len(text)-most/2:]
	}
	return text
}

// failed names the violated limits.
func (r result) failed() error {
	g, n := r.good, r.node
	var errs []error
	fail := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	fail(g.Missed > 0, "the good tenant missed %d of %d refreshes", g.Missed, g.Values)
	fail(n.Restarts > 0 || n.Kills > 0, "the driver was restarted %d times, and killed for want of memory %d times", n.Restarts, n.Kills)
	fail(g.FailedPublishes > 0, "%d new pods of the good tenant did not start within %s", g.FailedPublishes, publishLimit)
	fail(g.FailedUnpublishes > 0, "%d pods of the good tenant did not end within %s", g.FailedUnpublishes, publishLimit)
	fail(g.LateRevocations > 0, "%d Vault tokens of the good tenant were not revoked within %s", g.LateRevocations, revokeLimit)
	fail(g.Gaps > 0, "%d reads of the good tenant found no file", g.Gaps)
	fail(r.stuck > 0, "%d pods of the hostile tenant could not be unpublished", r.stuck)
	for _, row := range r.rows {
		fail(row.verdict.through, "%s broke through", row.name)
	}
	return errors.Join(errs...)
}

// printEach writes one line for each attack that ran alone.
func printEach(w io.Writer, results []result) {
	fmt.Fprintf(w, "\n%-22s %8s %9s %12s %12s  %s\n", "attack, alone", "missed", "restarts", "peak", "process", "outcome")
	for _, r := range results {
		row := r.rows[0]
		v := row.verdict
		if r.failed() != nil {
			v.through = true
		}
		fmt.Fprintf(w, "%-22s %8d %9d %12s %12s  %s\n", row.name, r.good.Missed, r.node.Restarts, mib(r.node.PeakGroup), mib(r.node.PeakProcess), strings.TrimSuffix(fmt.Sprintf("%s (%s)", v, row.tried), " ()"))
	}
}
