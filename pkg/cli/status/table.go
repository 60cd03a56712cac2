package status

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/mayfly-csi/mayfly/pkg/cli/volumes"
	"github.com/mayfly-csi/mayfly/pkg/statusz"
)

// The text of a cell without a value, and of one whose node did not answer.
const (
	none    = "<none>"
	unknown = "<unknown>"
)

// column is one of a table of volumes.
type column struct {
	head string
	cell func(v *volumes.Volume, now time.Time) string
}

func (c *command) columns() []column {
	list := []column{
		{"POD", func(v *volumes.Volume, _ time.Time) string { return v.Pod }},
		{"NODE", func(v *volumes.Volume, _ time.Time) string { return v.Node }},
		{"CLASS", func(v *volumes.Volume, _ time.Time) string { return v.Class }},
		{"STATE", func(v *volumes.Volume, _ time.Time) string { return v.State }},
		{"OBJECTS", func(v *volumes.Volume, _ time.Time) string { return objects(v.Objects, maxObjects) }},
		{"AGE", age},
		{"REFRESHED", refreshed},
		{"NEXT", next},
		{"EXPIRES", expires},
		{"FAILURE", func(v *volumes.Volume, _ time.Time) string { return v.Reason() }},
	}
	if c.all {
		list = slices.Insert(list, 0, column{"NAMESPACE", func(v *volumes.Volume, _ time.Time) string { return v.Namespace }})
	}
	if c.output.Format == wide {
		at := slices.IndexFunc(list, func(c column) bool { return c.head == "OBJECTS" })
		list[at].cell = func(v *volumes.Volume, _ time.Time) string { return objects(v.Objects, len(v.Objects)) }
		list = append(list,
			column{"FAILING", func(v *volumes.Volume, now time.Time) string { return ago(v.FailingSince, now, none) }},
			column{"STORE", func(v *volumes.Volume, _ time.Time) string { return live(v, storeOf(v)) }},
			column{"CLASSVERSION", func(v *volumes.Volume, _ time.Time) string { return live(v, v.ClassVersion) }},
			column{"MESSAGE", message})
	}
	return list
}

// storeOf is the store, and the address that answered in place of its first.
func storeOf(v *volumes.Volume) string {
	if v.AnsweredBy == "" {
		return v.Store
	}
	return v.Store + ", answered by " + v.AnsweredBy
}

// maxObjects is how many the table shows; wide shows all.
const maxObjects = 2

func objects(list []statusz.Object, most int) string {
	var b strings.Builder
	for i, o := range list {
		if i == most {
			fmt.Fprintf(&b, ",+%d", len(list)-i)
			break
		}
		if i > 0 {
			b.WriteString(",")
		}
		b.WriteString(o.ID)
		if o.Version != "" {
			b.WriteString("=" + o.Version)
		}
	}
	return b.String()
}

// live is what only a node knows.
func live(v *volumes.Volume, text string) string {
	if !v.Live {
		return unknown
	}
	return text
}

// age is the age of the status if the node did not answer: the driver writes it at the first mount.
func age(v *volumes.Volume, now time.Time) string { return ago(v.PublishedAt, now, unknown) }

func refreshed(v *volumes.Volume, now time.Time) string {
	return live(v, ago(v.RefreshedAt, now, none))
}

func next(v *volumes.Volume, now time.Time) string {
	switch {
	case v.Refreshing:
		return "now"
	case v.State == volumes.NotMounted:
		return none
	}
	return live(v, until(v.NextAt, now))
}

func expires(v *volumes.Volume, now time.Time) string {
	if v.State == volumes.NotMounted {
		return none
	}
	return live(v, until(v.ExpiresAt, now))
}

func message(v *volumes.Volume, _ time.Time) string {
	if v.Failure == nil {
		return ""
	}
	return v.Failure.Message
}

func ago(t, now time.Time, without string) string {
	if t.IsZero() {
		return without
	}
	return duration.HumanDuration(max(0, now.Sub(t)))
}

func until(t, now time.Time) string {
	switch {
	case t.IsZero():
		return none
	case t.Before(now):
		return "-" + duration.HumanDuration(now.Sub(t))
	}
	return duration.HumanDuration(t.Sub(now))
}

// table writes volumes as kubectl does.
type table struct {
	columns []column
	now     time.Time
}

// write writes the head and the volumes.
func (t *table) write(w io.Writer, list []volumes.Volume, head bool) error {
	rows := make([][]string, 0, len(list)+1)
	if head {
		row := make([]string, len(t.columns))
		for i, c := range t.columns {
			row[i] = c.head
		}
		rows = append(rows, row)
	}
	for i := range list {
		row := make([]string, len(t.columns))
		for j, c := range t.columns {
			row[j] = cmp.Or(c.cell(&list[i], t.now), none)
		}
		rows = append(rows, row)
	}
	return writeRows(w, rows)
}

func writeRows(w io.Writer, rows [][]string) error {
	tabs := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	for _, row := range rows {
		if _, err := io.WriteString(tabs, strings.Join(row, "\t")+"\n"); err != nil {
			return err
		}
	}
	return tabs.Flush()
}

// group is the volumes of a namespace, a node or a class.
type group struct {
	name                      string
	volumes, failing, notLive int
	oldest, next, expires     time.Time
}

// writeGroups writes a line for each group, those with failures first.
func writeGroups(w io.Writer, list []volumes.Volume, by string, now time.Time) error {
	known := map[string]*group{}
	for i := range list {
		v := &list[i]
		name := map[string]string{"namespace": v.Namespace, "node": v.Node, "class": v.Namespace + "/" + v.Class}[by]
		g := known[name]
		if g == nil {
			g = &group{name: name}
			known[name] = g
		}
		g.add(v)
	}
	var groups []*group
	for _, g := range known {
		groups = append(groups, g)
	}
	slices.SortFunc(groups, func(a, b *group) int { return cmp.Or(cmp.Compare(b.failing, a.failing), cmp.Compare(a.name, b.name)) })
	rows := [][]string{{strings.ToUpper(by), "VOLUMES", "FAILING", "OLDEST REFRESH", "NEXT", "EXPIRES", "NOT ASKED"}}
	for _, g := range groups {
		old, soon, end := ago(g.oldest, now, none), until(g.next, now), until(g.expires, now)
		if g.notLive == g.volumes {
			old, soon, end = unknown, unknown, unknown
		}
		rows = append(rows, []string{cmp.Or(g.name, none), fmt.Sprint(g.volumes), fmt.Sprint(g.failing), old, soon, end, fmt.Sprint(g.notLive)})
	}
	return writeRows(w, rows)
}

func (g *group) add(v *volumes.Volume) {
	g.volumes++
	if v.Failed() {
		g.failing++
	}
	if !v.Live {
		g.notLive++
		return
	}
	for _, m := range []struct {
		to *time.Time
		at time.Time
	}{{&g.oldest, v.RefreshedAt}, {&g.next, v.NextAt}, {&g.expires, v.ExpiresAt}} {
		if !m.at.IsZero() && (m.to.IsZero() || m.at.Before(*m.to)) {
			*m.to = m.at
		}
	}
}
