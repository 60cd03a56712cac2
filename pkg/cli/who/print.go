package who

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/mayfly-csi/mayfly/pkg/cli/finding"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/pkg/cli/rbac"
	"github.com/mayfly-csi/mayfly/pkg/cli/trail"
)

func (c *command) print(a *answer) error {
	c.report.Sort()
	switch c.out.Format {
	case output.JSON:
		return c.printJSON(a)
	case output.SARIF:
		return c.out.Print(c.report, c.streams)
	}
	var b strings.Builder
	a.head(&b)
	if a.looked {
		a.listAccounts(&b)
		a.listRows(&b)
	}
	if a.trail != nil {
		a.listReaders(&b)
	}
	if _, err := io.WriteString(c.streams.Out, b.String()); err != nil {
		return err
	}
	if len(c.report.Findings) == 0 {
		return nil
	}
	fmt.Fprintln(c.streams.Out)
	return c.out.Print(c.report, c.streams)
}

// printJSON prints the data behind the text, all subjects included.
func (c *command) printJSON(a *answer) error {
	type did struct {
		Sources []string       `json:"sources"`
		Lines   int            `json:"lines"`
		Readers []trail.Reader `json:"readers"`
	}
	type can struct {
		Accounts []account  `json:"serviceAccounts"`
		Subjects []rbac.Row `json:"subjects"`
	}
	out := struct {
		Version  int               `json:"version"`
		Object   finding.Object    `json:"object"`
		Part     string            `json:"part,omitempty"`
		Class    *classInfo        `json:"class,omitempty"`
		Can      *can              `json:"can,omitempty"`
		Did      *did              `json:"did,omitempty"`
		Findings []finding.Finding `json:"findings"`
	}{Version: 1, Object: a.object, Part: a.part, Class: a.class, Findings: append([]finding.Finding{}, c.report.Findings...)}
	if a.looked {
		out.Can = &can{append([]account{}, a.accounts...), append([]rbac.Row{}, a.rows...)}
	}
	if a.trail != nil {
		out.Did = &did{append([]string{}, a.sources...), a.trail.Sums().Lines, a.trail.Readers()}
	}
	return output.EncodeJSON(c.streams.Out, out)
}

func (a *answer) head(b *strings.Builder) {
	fmt.Fprint(b, finding.Printable(a.object.String()))
	if a.part != "" {
		fmt.Fprintf(b, ", object %s", finding.Printable(a.part))
	}
	b.WriteString("\n")
	if a.class == nil {
		return
	}
	fmt.Fprintf(b, "The store (%s) decides which service accounts it accepts", finding.Printable(a.class.Provider))
	for i, key := range slices.Sorted(maps.Keys(a.class.Parameters)) {
		fmt.Fprintf(b, "%s %s %s", []string{":", ","}[min(i, 1)], key, finding.Printable(fmt.Sprintf("%q", a.class.Parameters[key])))
	}
	b.WriteString(".\n")
	for _, w := range a.class.Whole {
		fmt.Fprintf(b, "Its files %s are the keys of the secret %s: ", finding.Printable(inside(w)), finding.Printable(strconv.Quote(w.From)))
		switch {
		case len(w.Files) > 0:
			b.WriteString("pods have " + finding.Printable(some(w.Files)))
			if a.class.Unseen {
				b.WriteString(", and there may be more")
			}
		case a.class.Unseen:
			b.WriteString("which ones is not known here")
		default:
			b.WriteString("no pod has one now")
		}
		b.WriteString(".\n")
	}
}

func (a *answer) listAccounts(b *strings.Builder) {
	fmt.Fprintf(b, "\nSERVICE ACCOUNTS THAT MAY MOUNT IT: any pod of the namespace may name the class\n")
	if len(a.accounts) == 0 {
		b.WriteString("none found\n")
		return
	}
	t := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "NAME\tPODS THAT DO")
	for _, x := range a.accounts {
		fmt.Fprintf(t, "%s\t%d\n", finding.Printable(x.Name), x.Pods)
	}
	_ = t.Flush()
}

func (a *answer) listRows(b *strings.Builder) {
	fmt.Fprintf(b, "\nWHO CAN READ IT\n")
	if len(a.rows) == 0 {
		b.WriteString("no subject found\n")
		return
	}
	t := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "SUBJECT\tWAYS\tBY")
	system := 0
	for _, row := range a.rows {
		if row.System && !a.all {
			system++
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", word(row.Subject), finding.Printable(wayNames(row)), finding.Printable(grantNames(row)))
	}
	_ = t.Flush()
	if system > 0 {
		fmt.Fprintf(b, "and %s of Kubernetes itself (--all lists them)\n", output.Plural(system, "subject"))
	}
}

// word quotes a name that has blanks, so that one name cannot look like two columns.
func word(s rbac.Subject) string {
	s.Name = blankless(s.Name)
	return finding.Printable(s.String())
}

func blankless(text string) string {
	if strings.ContainsFunc(text, unicode.IsSpace) {
		return strconv.Quote(text)
	}
	return text
}

// maxShown is how many of a kind a row of text shows; JSON has all.
const maxShown = 4

// wayNames are the names of a row's ways, grouped by the subject that they lead to.
func wayNames(row rbac.Row) string {
	var direct, others []string
	by := map[string][]string{}
	for _, w := range row.Ways {
		if w.As == nil {
			if !slices.Contains(direct, w.Way) {
				direct = append(direct, w.Way)
			}
			continue
		}
		by[w.Way] = append(by[w.Way], word(*w.As))
	}
	for _, way := range slices.Sorted(maps.Keys(by)) {
		others = append(others, way+": "+list(by[way]))
	}
	return strings.Join(append(direct, others...), "; ")
}

// grantNames are the bindings of a row with their roles.
func grantNames(row rbac.Row) string {
	var names []string
	for _, w := range row.Ways {
		for _, g := range w.Grants {
			text := fmt.Sprintf("%s (%s)", word(rbac.Subject(g.Binding)), word(rbac.Subject(g.Role)))
			if g.Part != "" {
				text = strings.TrimSuffix(text, ")") + ", aggregated)"
			}
			if !slices.Contains(names, text) {
				names = append(names, text)
			}
		}
	}
	// A role with own and aggregated rules is named once.
	names = slices.DeleteFunc(names, func(n string) bool {
		return strings.HasSuffix(n, ", aggregated)") && slices.Contains(names, strings.TrimSuffix(n, ", aggregated)")+")")
	})
	return list(names)
}

func list(names []string) string {
	if len(names) > maxShown {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxShown], ", "), len(names)-maxShown)
	}
	return strings.Join(names, ", ")
}

func (a *answer) listReaders(b *strings.Builder) {
	fmt.Fprintf(b, "\nWHO DID, by %s of the audit trail from %s\n", output.Plural(a.trail.Sums().Lines, "line"), output.Plural(len(a.sources), "place"))
	readers := a.trail.Readers()
	if len(readers) == 0 {
		b.WriteString("no pod found\n")
		return
	}
	t := tabwriter.NewWriter(b, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "POD\tSERVICE ACCOUNT\tNODE\tFIRST\tLAST\tREADS\tVERSIONS\tFAILURES\tGONE")
	for _, r := range readers {
		failures := "-"
		if r.Failures > 0 {
			failures = fmt.Sprint(r.Failures)
			if r.Failure != nil {
				failures += fmt.Sprintf(", last %s at %s", blankless(cmp.Or(r.Failure.Reason, "unknown")), when(&r.Failure.Time))
			}
		}
		fields := []string{r.Pod, cmp.Or(r.ServiceAccount, "-"), r.Node, when(r.First), when(r.Last), fmt.Sprint(r.Reads), versions(r.Versions, a.part), failures, when(r.Gone)}
		for i := range fields {
			fields[i] = finding.Printable(fields[i])
		}
		fmt.Fprintln(t, strings.Join(fields, "\t"))
	}
	_ = t.Flush()
}

func when(at *time.Time) string {
	if at == nil {
		return "-"
	}
	return at.UTC().Format(time.RFC3339)
}

// versions are those of one object, the newest first, or the newest of each.
func versions(all map[string][]string, object string) string {
	if object != "" {
		var newest []string
		for _, version := range slices.Backward(all[object]) {
			newest = append(newest, blankless(version))
		}
		return cmp.Or(list(newest), "-")
	}
	var names []string
	for _, id := range slices.Sorted(maps.Keys(all)) {
		names = append(names, blankless(id+"="+all[id][len(all[id])-1]))
	}
	return cmp.Or(list(names), "-")
}
