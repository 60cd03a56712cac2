package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/procfs"
)

// process exports what the driver's process uses, under the names of client_golang's
// collector. That one also reads /proc/stat, which takes longer the more processors a
// node has, and the network counters of the pod, which kubelet has too: together 40 % of
// the time of a scrape. What cannot be read is absent.
type process struct {
	of           procfs.Proc
	start, limit float64 // 0 for unknown

	cpu, resident, virtual, started, open, most *prometheus.Desc
}

func newProcess() process {
	desc := func(name, help string) *prometheus.Desc { return prometheus.NewDesc(name, help, nil, nil) }
	p := process{
		cpu:      desc("process_cpu_seconds_total", "CPU time of the driver, in seconds."),
		resident: desc("process_resident_memory_bytes", "Resident memory of the driver, in bytes."),
		virtual:  desc("process_virtual_memory_bytes", "Virtual memory of the driver, in bytes."),
		started:  desc("process_start_time_seconds", "When the driver started."),
		open:     desc("process_open_fds", "Open file descriptors of the driver."),
		most:     desc("process_max_fds", "How many file descriptors the driver may have open."),
	}
	p.of, _ = procfs.Self()
	if stat, err := p.of.Stat(); err == nil {
		p.start, _ = stat.StartTime()
	}
	if limits, err := p.of.Limits(); err == nil {
		p.limit = float64(limits.OpenFiles)
	}
	return p
}

// Describe implements prometheus.Collector.
func (p process) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{p.cpu, p.resident, p.virtual, p.started, p.open, p.most} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (p process) Collect(to chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64) {
		to <- prometheus.MustNewConstMetric(d, kind, value)
	}
	if stat, err := p.of.Stat(); err == nil {
		send(p.cpu, prometheus.CounterValue, stat.CPUTime())
		send(p.resident, prometheus.GaugeValue, float64(stat.ResidentMemory()))
		send(p.virtual, prometheus.GaugeValue, float64(stat.VirtualMemory()))
	}
	if n, err := p.of.FileDescriptorsLen(); err == nil {
		send(p.open, prometheus.GaugeValue, float64(n))
	}
	if p.start > 0 {
		send(p.started, prometheus.GaugeValue, p.start)
	}
	if p.limit > 0 {
		send(p.most, prometheus.GaugeValue, p.limit)
	}
}
