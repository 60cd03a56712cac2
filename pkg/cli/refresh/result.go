package refresh

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/volumes"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
)

// The results for a volume.
const (
	asked     = "Asked"     // it was not waited for
	rotated   = "Rotated"   // it holds another version
	unchanged = "Unchanged" // the store has what it holds
	failed    = "Failed"    // it keeps its last good content
	pending   = "Pending"   // not looked at in time
	unseen    = "Unknown"   // its node does not tell
	gone      = "Gone"      // its pod went meanwhile
)

// result is what came of one volume.
type result struct {
	Volume  volumes.Volume `json:"volume"`
	Result  string         `json:"result"`
	Changes []change       `json:"changes,omitempty"`
}

// change is an object whose version changed. From is empty for a new object, To for a removed one.
type change struct {
	ID   string `json:"id"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

func (r *result) take(what string, before, now *volumes.Volume) {
	r.Result, r.Volume, r.Changes = what, *now, changesOf(before.Objects, now.Objects)
}

func changesOf(before, now []statusz.Object) (out []change) {
	old := map[string]string{}
	for _, o := range before {
		old[o.ID] = o.Version
	}
	for _, o := range now {
		if from, known := old[o.ID]; !known || from != o.Version {
			out = append(out, change{o.ID, from, o.Version})
		}
		delete(old, o.ID)
	}
	for _, o := range before {
		if from, left := old[o.ID]; left {
			out = append(out, change{o.ID, from, ""})
		}
	}
	return out
}

// document is the JSON form.
type document struct {
	// Version counts the changes of this form that break readers.
	Version  int               `json:"version"`
	Results  []result          `json:"results"`
	Findings []finding.Finding `json:"findings"`
}

func (c *command) print(results []result, r *finding.Report) error {
	switch c.output.Format {
	case output.SARIF:
		return c.output.Finish(r, c.streams)
	case output.JSON:
		r.Sort()
		d := document{1, append([]result{}, results...), append([]finding.Finding{}, r.Findings...)}
		if err := output.EncodeJSON(c.streams.Out, d); err != nil {
			return fmt.Errorf("writing the results: %w", err)
		}
		return c.output.Verdict(r)
	}
	if len(results) > 0 {
		if err := writeResults(c.streams.Out, results); err != nil {
			return fmt.Errorf("writing the results: %w", err)
		}
	}
	return c.output.Aside(r, c.streams)
}

func writeResults(w io.Writer, results []result) error {
	tabs := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	if _, err := io.WriteString(tabs, "POD\tNODE\tCLASS\tRESULT\tCHANGES\n"); err != nil {
		return err
	}
	for i := range results {
		r := &results[i]
		var moved []string
		for _, m := range r.Changes {
			moved = append(moved, fmt.Sprintf("%s: %s → %s", m.ID, cmp.Or(m.From, "none"), cmp.Or(m.To, "none")))
		}
		if _, err := fmt.Fprintf(tabs, "%s\t%s\t%s\t%s\t%s\n", r.Volume.Pod, cmp.Or(r.Volume.Node, "<unknown>"), r.Volume.Class, r.Result, cmp.Or(strings.Join(moved, ", "), "<none>")); err != nil {
			return err
		}
	}
	return tabs.Flush()
}
