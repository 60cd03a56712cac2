package main

import (
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/prometheus/prometheus/promql/parser"
)

const (
	file = "../../charts/mayfly/files/dashboard.json"
	docs = "../../docs/operating.md"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// problem is nil for the SDK's empty list of errors, which is no nil error.
func problem(err error) error {
	if list := (cog.BuildErrors)(nil); errors.As(err, &list) && len(list) == 0 {
		return nil
	}
	return err
}

// board is the one that the chart has.
func board(t *testing.T) dashboard.Dashboard {
	t.Helper()
	text, err := os.ReadFile(file)
	must(t, err)
	var b dashboard.Dashboard
	must(t, problem(b.UnmarshalJSONStrict(text)))
	b = dashboard.Dashboard{} // the strict way leaves panels out, for the SDK's empty errors
	must(t, json.Unmarshal(text, &b))
	return b
}

// TestGenerated: the chart has what is built here, and that is a dashboard.
func TestGenerated(t *testing.T) {
	b, err := build()
	must(t, err)
	must(t, problem(b.Validate()))
	text, err := json.MarshalIndent(b, "", "  ")
	must(t, err)
	have, err := os.ReadFile(file)
	must(t, err)
	if string(text)+"\n" != string(have) {
		t.Errorf("%s is not what is built here: run make generate", file)
	}
	var other dashboard.Dashboard
	if problem(other.UnmarshalJSONStrict([]byte(strings.Replace(string(have), `"editable"`, `"editible"`, 1)))) == nil {
		t.Error("the decoding is not strict")
	}
	if have := board(t); *have.Editable || *have.Uid == "" {
		t.Error("the board can be edited, or has no uid")
	}
}

// query is one of a panel.
type query struct {
	Expr, LegendFormat, RefID string
	Range, Instant            bool
	Datasource                struct{ UID string }
}

func queries(t *testing.T, p *dashboard.Panel) (all []query) {
	t.Helper()
	text, err := json.Marshal(p.Targets)
	must(t, err)
	must(t, json.Unmarshal(text, &all))
	return all
}

func panels(t *testing.T, do func(t *testing.T, row string, p *dashboard.Panel)) {
	t.Helper()
	row, ids := "", map[uint32]bool{}
	b := board(t)
	for _, x := range b.Panels {
		id := uint32(0)
		if x.RowPanel != nil {
			row, id = *x.RowPanel.Title, x.RowPanel.Id
		} else {
			id = *x.Panel.Id
			t.Run(row+": "+*x.Panel.Title, func(t *testing.T) { do(t, row, x.Panel) })
		}
		if ids[id] || id == 0 {
			t.Errorf("id %d is there twice", id)
		}
		ids[id] = true
	}
	if len(ids) < 20 {
		t.Errorf("%d panels: the test does not see them", len(ids))
	}
}

// TestPanels holds them to what Grafana's linter of dashboards asks for.
func TestPanels(t *testing.T) {
	seen := map[string]bool{}
	panels(t, func(t *testing.T, row string, p *dashboard.Panel) {
		if name := row + p.Type + *p.Title; seen[name] {
			t.Error("the title is there twice")
		} else {
			seen[name] = true
		}
		switch {
		case len(*p.Title) > 45:
			t.Errorf("the title has %d characters", len(*p.Title))
		case p.Description == nil || !strings.HasSuffix(*p.Description, "."):
			t.Error("no description that is a sentence")
		case p.FieldConfig.Defaults.Unit == nil || !slices.Contains(units, *p.FieldConfig.Defaults.Unit):
			t.Error("no unit, or one that this test does not know")
		case *p.Datasource.Uid != "${datasource}":
			t.Error("the data source is no variable")
		case len(p.Targets) == 0:
			t.Error("no query")
		}
		for _, q := range queries(t, p) {
			if q.Datasource.UID != "${datasource}" || q.Range == q.Instant || q.Instant != (p.Type == "stat") {
				t.Errorf("query %s: %+v", q.RefID, q)
			}
			if len(p.Targets) > 1 && q.LegendFormat == "" {
				t.Errorf("query %s has no legend", q.RefID)
			}
		}
	})
}

// units are Grafana's names: a number, seconds, bytes, a part, per second.
var units = []string{"short", "s", "bytes", "percentunit", "ops", "reqps"}

// foreign are the metrics that others than the driver's own code expose, with
// their labels.
var foreign = map[string][]string{
	"up":                            {},
	"process_resident_memory_bytes": {},
	"process_cpu_seconds_total":     {},
	"csi_operations_seconds":        kubelets, // k8s.io/kubernetes pkg/volume/util/metrics.go
}

var kubelets = []string{"driver_name", "method_name", "grpc_status_code", "migrated"}

// metrics are the documented ones with their labels; pkg/telemetry holds the page
// to what the driver exposes.
func metrics(t *testing.T) map[string][]string {
	t.Helper()
	page, err := os.ReadFile(docs)
	must(t, err)
	all := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|([a-z_, ]*)\\|").FindAllStringSubmatch(string(page), -1) {
		for label := range strings.SplitSeq(m[2], ",") {
			all[m[1]] = append(all[m[1]], strings.TrimSpace(label))
		}
	}
	if len(all) < 20 {
		t.Fatalf("%d metrics in %s", len(all), docs)
	}
	for name, labels := range foreign {
		all[name] = labels
	}
	return all
}

// TestQueries: Prometheus can read each, it is of metrics and labels that there
// are, and it asks as one has to.
func TestQueries(t *testing.T) {
	known := metrics(t)
	parse := parser.NewParser(parser.Options{})
	panels(t, func(t *testing.T, _ string, p *dashboard.Panel) {
		for _, q := range queries(t, p) {
			if strings.Count(q.Expr, "[") != strings.Count(q.Expr, "[$__rate_interval]") {
				t.Errorf("a range that is not $__rate_interval: %s", q.Expr)
			}
			expr, err := parse.ParseExpr(strings.NewReplacer("$__rate_interval", "5m", "$job", "x", "$instance", "x", "$provider", "x").Replace(q.Expr))
			if err != nil {
				t.Fatalf("%s: %v", q.Expr, err)
			}
			var labels []string
			parser.Inspect(expr, func(n parser.Node, path []parser.Node) error {
				if v, ok := n.(*parser.VectorSelector); ok {
					labels = append(labels, checkSelector(t, known, v, path)...)
				}
				return nil
			})
			for _, label := range grouped(expr) {
				if label != "le" && label != "instance" && !slices.Contains(labels, label) {
					t.Errorf("no metric in %s has the label %s", q.Expr, label)
				}
			}
			for _, m := range regexp.MustCompile(`{{([a-z_]+)}}`).FindAllStringSubmatch(q.LegendFormat, -1) {
				if !slices.Contains(grouped(expr), m[1]) {
					t.Errorf("the legend has %s, by which %s is not grouped", m[1], q.Expr)
				}
			}
		}
	})
}

// checkSelector gives the labels that the metric has.
func checkSelector(t *testing.T, known map[string][]string, v *parser.VectorSelector, path []parser.Node) []string {
	t.Helper()
	name := v.Name
	counts := strings.HasSuffix(name, "_total")
	for _, suffix := range []string{"_bucket", "_count", "_sum"} {
		if base, ok := strings.CutSuffix(name, suffix); ok && known[name] == nil {
			name, counts = base, true
		}
	}
	labels, ok := known[name]
	if !ok {
		t.Errorf("there is no metric %s", name)
	}
	var matched []string
	for _, m := range v.LabelMatchers {
		matched = append(matched, m.Name)
		if m.Name != "__name__" && m.Name != "job" && m.Name != "instance" && !slices.Contains(labels, m.Name) {
			t.Errorf("%s has no label %s", name, m.Name)
		}
	}
	if name != "csi_operations_seconds" && (!slices.Contains(matched, "job") || !slices.Contains(matched, "instance")) {
		t.Errorf("%s is not of the chosen jobs and nodes", v)
	}
	if name == "csi_operations_seconds" && !slices.Contains(matched, "driver_name") {
		t.Errorf("%s is of all drivers", v)
	}
	rated := false
	for _, n := range path {
		call, ok := n.(*parser.Call)
		rated = rated || ok && slices.Contains([]string{"rate", "increase", "irate"}, call.Func.Name)
	}
	if counts != rated {
		t.Errorf("%s: a counter's rate is wanted, and of nothing else", v)
	}
	return labels
}

// grouped are the labels that the query's result has.
func grouped(expr parser.Expr) (labels []string) {
	parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
		if a, ok := n.(*parser.AggregateExpr); ok && !a.Without {
			labels = append(labels, a.Grouping...)
		}
		return nil
	})
	return labels
}

// TestVariables: the variables that queries use are there, and theirs can be read
// too.
func TestVariables(t *testing.T) {
	var names []string
	b := board(t)
	for _, v := range b.Templating.List {
		names = append(names, v.Name)
		if v.Type == dashboard.VariableTypeQuery && (v.Multi == nil || !*v.Multi || *v.AllValue != ".*" || *v.Datasource.Uid != "${datasource}") {
			t.Errorf("variable %s: %+v", v.Name, v)
		}
	}
	if !slices.Equal(names, []string{"datasource", "job", "instance", "provider"}) {
		t.Errorf("variables %v", names)
	}
}
