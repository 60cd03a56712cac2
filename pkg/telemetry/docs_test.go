package telemetry_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

var update = flag.Bool("update", false, "write the table of metrics into docs/operating.md")

const (
	page       = "../../docs/operating.md"
	tableBegin = "<!-- metrics: written by go test ./pkg/telemetry -update -->\n"
	tableEnd   = "<!-- end of metrics -->\n"
)

// families are the driver's own metrics, by name, each recorded once.
func families(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all := testkit.Value(parser.TextToMetricFamilies(strings.NewReader(scrape(t))))(t)
	maps.DeleteFunc(all, func(name string, _ *dto.MetricFamily) bool {
		return strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_")
	})
	return all
}

// TestDocumentedMetrics: docs/operating.md has the metrics that there are, with
// their labels and their own words.
func TestDocumentedMetrics(t *testing.T) {
	data := testkit.Value(os.ReadFile(page))(t)
	before, rest, ok := strings.Cut(string(data), tableBegin)
	_, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the metrics", page)
	}
	var b strings.Builder
	b.WriteString("| Metric | Labels | Kind | Meaning |\n|---|---|---|---|\n")
	all := families(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		var labels []string
		for _, l := range all[name].GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, strings.Join(labels, ", "), strings.ToLower(all[name].GetType().String()), all[name].GetHelp())
	}
	want := before + tableBegin + b.String() + tableEnd + after
	if want == string(data) {
		return
	}
	if !*update {
		t.Fatalf("the metrics in %s are not those of the driver: run go test ./pkg/telemetry -update", page)
	}
	testkit.Must(t, os.WriteFile(page, []byte(want), 0o644))
}

// TestMetricsMove: what is recorded can be seen in every metric.
func TestMetricsMove(t *testing.T) {
	for name, f := range families(t) {
		moved := false
		for _, m := range f.GetMetric() {
			moved = moved || m.GetCounter().GetValue() != 0 || m.GetGauge().GetValue() != 0 || m.GetHistogram().GetSampleCount() != 0
		}
		if !moved {
			t.Errorf("%s is 0 whatever happens", name)
		}
	}
}
