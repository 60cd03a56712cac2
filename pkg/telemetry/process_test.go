package telemetry

import (
	"math"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// TestProcess compares with client_golang's collector.
func TestProcess(t *testing.T) {
	families := func(c prometheus.Collector) map[string]*dto.MetricFamily {
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(c)
		all := map[string]*dto.MetricFamily{}
		for _, f := range testkit.Value(r.Gather())(t) {
			all[f.GetName()] = f
		}
		return all
	}
	value := func(f *dto.MetricFamily) float64 {
		m := f.GetMetric()[0]
		return m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	want := families(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	got := families(newProcess())
	testkit.Equal(t, "metrics", len(got), 6)
	for name, f := range got {
		of := want[name]
		if of == nil || of.GetType() != f.GetType() {
			t.Errorf("%s is a %s, client_golang's is a %s", name, f.GetType(), of.GetType())
			continue
		}
		near := .3*value(of) + 1 // the process goes on between the two readings
		if name == "process_start_time_seconds" || name == "process_max_fds" {
			near = 0
		}
		if math.Abs(value(f)-value(of)) > near {
			t.Errorf("%s is %v, client_golang's is %v", name, value(f), value(of))
		}
	}
}
