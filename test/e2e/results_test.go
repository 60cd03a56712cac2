//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// results are the data of the summary: the result of each case, and the measurements.
type results struct {
	mu    sync.Mutex
	cases []result
	facts []string
}

type result struct {
	name, outcome string
	took          time.Duration
}

func (r *results) record(t *testing.T, name string, began time.Time) {
	outcome := "ok"
	switch {
	case t.Failed():
		outcome = "FAILED"
	case t.Skipped():
		outcome = "skipped"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cases = append(r.cases, result{name, outcome, time.Since(began)})
}

// measured adds a line to the summary.
func (r *results) measured(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.facts = append(r.facts, fmt.Sprintf(format, args...))
}

func (r *results) print(w io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\nCASE\tRESULT\tTIME")
	for _, c := range r.cases {
		fmt.Fprintf(table, "%s\t%s\t%.1fs\n", c.name, c.outcome, c.took.Seconds())
	}
	_ = table.Flush()
	fmt.Fprintln(w)
	for _, fact := range r.facts {
		fmt.Fprintln(w, fact)
	}
}
