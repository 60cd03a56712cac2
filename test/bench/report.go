package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// The targets, as docs/dev/performance.md has them.
const (
	targetMany    = 1.3  // of the floor
	targetOne     = 0.2  // of the floor
	targetP50     = 0.3  // milliseconds
	targetMemory  = 35e6 // bytes
	targetLarge   = 45e6 // bytes, with five times as many volumes
	targetLife    = 350  // milliseconds of CPU time
	targetReady   = 500  // milliseconds
	targetOverdue = 2000 // milliseconds beyond the interval
	targetRate    = 2.0  // requests a second to a store that is away
	targetFresh   = 5000 // milliseconds after its return
	targetPlugin  = 1.0  // milliseconds over the plugin's own time

	targetSynced         = 10.0 // percent of CPU time
	targetObserved       = 5.0  // percent of CPU time
	targetObservedMemory = 3e6  // bytes
)

// row is one line of the table. Without a target it is for information.
type row struct {
	What     string
	Measured string
	Target   string
	Met      bool
}

func (r row) verdict() string {
	switch {
	case r.Target == "":
		return ""
	case r.Met:
		return "yes"
	}
	return "no"
}

func (r *results) print(w io.Writer) error {
	switch {
	case r.config.json:
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	case r.config.markdown:
		return r.printMarkdown(w)
	}
	return r.printText(w)
}

func (r *results) heading() string {
	text := fmt.Sprintf("%s. %d pods, %d at once, %d rounds (medians), %d unrelated classes in %s.",
		r.Machine, r.Size.Pods, r.Size.AtOnce, r.Size.Rounds, r.Size.Classes, r.Size.APIServer)
	if r.Size.Short {
		text += " Short form: too little work for numbers that mean much."
	}
	return text
}

func (r *results) printText(w io.Writer) error {
	fmt.Fprintf(w, "%s\n\n", r.heading())
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WHAT\tMEASURED\tTARGET\tMET")
	for _, row := range r.rows() {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", row.What, row.Measured, row.Target, row.verdict())
	}
	return t.Flush()
}

func (r *results) printMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n| What | Measured | Target | Met |\n|---|---|---|---|\n", r.heading())
	for _, row := range r.rows() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", row.What, row.Measured, row.Target, row.verdict())
	}
	_, err := io.WriteString(w, b.String())
	return err
}
