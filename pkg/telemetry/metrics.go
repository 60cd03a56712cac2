// Package telemetry counts the driver's work, in Prometheus' format. It keeps the metric names of
// the Secrets Store CSI driver; Mayfly's own begin with mayfly_.
package telemetry

import (
	"net/http"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// Metrics records outcomes and calls.
type Metrics struct {
	registry *prometheus.Registry

	publishes, publishErrors     *prometheus.CounterVec
	unpublishes, unpublishErrors *prometheus.CounterVec
	refreshes, refreshErrors     *prometheus.CounterVec
	refreshSeconds               *prometheus.HistogramVec
	rotations                    *prometheus.CounterVec
	lastGood                     *prometheus.CounterVec
	releases                     *prometheus.CounterVec
	setAside                     prometheus.Counter
	audited, unaudited, auditing prometheus.Counter
	auditedLine                  prometheus.Gauge
	callSeconds                  *prometheus.HistogramVec
	stepSeconds                  *prometheus.HistogramVec
	requests, apiRequests, spans *prometheus.CounterVec
	obtained                     *prometheus.CounterVec
	secrets                      *prometheus.CounterVec
	restarts                     prometheus.Counter
	requestSeconds               *prometheus.HistogramVec

	// plugins returns the names of the provider plugins that are there.
	plugins func() []string
}

// The results of revoking a gone volume's credentials.
const (
	resultOK      = "ok"
	resultGivenUp = "given_up"
)

const osType = "linux"

// New registers every metric. volumes returns the number of volumes, failing the number of those
// whose last refresh failed.
func New(version string, volumes, failing func() int) *Metrics {
	m := &Metrics{
		registry:        prometheus.NewRegistry(),
		plugins:         func() []string { return nil },
		publishes:       counter("node_publish_total", "First publishes that succeeded.", "provider", "os_type"),
		publishErrors:   counter("node_publish_error_total", "First publishes that failed.", "provider", "os_type", "error_type"),
		unpublishes:     counter("node_unpublish_total", "Unpublishes that succeeded.", "os_type"),
		unpublishErrors: counter("node_unpublish_error_total", "Unpublishes that failed.", "os_type"),
		refreshes:       counter("rotation_reconcile_total", "Refreshes that succeeded, and whether they wrote files.", "provider", "os_type", "rotated"),
		refreshErrors:   counter("rotation_reconcile_error_total", "Refreshes that failed: rotated is false where the last good content stays, true where a denial has emptied the volume (onDenied: empty).", "provider", "os_type", "error_type", "rotated"),
		refreshSeconds:  histogram("rotation_reconcile_duration_sec", "Time of a refresh, seconds.", "os_type"),
		rotations:       counter("mayfly_rotations_total", "Refreshes that wrote new content.", "provider"),
		lastGood:        counter("mayfly_last_good_total", "Publishes from the node's memory while the store was down (onUnavailable: lastGood).", "provider"),
		releases:        counter("mayfly_releases_total", "Revocations of the credentials of unpublished volumes: ok or given_up.", "provider", "result"),
		setAside:        plain("mayfly_records_set_aside_total", "Records of volumes that could not be read after a restart; the log says why."),
		audited:         plain("mayfly_audit_lines_total", "Lines written to the audit trail."),
		unaudited:       plain("mayfly_audit_lost_lines_total", "Lines of the audit trail that were lost; the next line says so too."),
		auditing:        plain("mayfly_audit_write_errors_total", "Failed writes of a line of the audit trail; the driver tries again."),
		auditedLine:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "mayfly_audit_last_line", Help: "Number of the last line of the audit trail in its chain, for mayfly-node audit verify --reaches."}),
		callSeconds:     histogram("mayfly_grpc_call_duration_seconds", "Duration of a call from kubelet, in seconds.", "method", "code"),
		stepSeconds:     histogram("mayfly_step_duration_seconds", "Duration of one step of a publish or refresh, in seconds: class (look-up), store (the provider's fetch, with login and reads), mount, write, follow (Kubernetes Secrets), record (the driver's state). In the OpenMetrics format store has an exemplar: the id under which the store's audit log has a request, and the trace, if there is one.", "kind", "step"),
		requests:        counter("mayfly_store_requests_total", "Requests of the built-in providers: login, read, issue (a credential or certificate), check (a version, a lease, a mount), renew, revoke; by the answer's code, none for no answer.", "provider", "operation", "code"),
		obtained:        counter("mayfly_volume_requests_total", "Logins and reads that volumes needed: shared no is a request of the volume's own to the store (a read: for the secret or its version), yes is one of another volume of the same identity that served this one too.", "provider", "operation", "shared"),
		requestSeconds:  histogram("mayfly_store_request_duration_seconds", "Duration of a request to a store in seconds, until its answer is read.", "provider", "operation", "code"),
		spans:           counter("mayfly_trace_spans_total", "Spans of traces: sent, failed (the collector did not take them), dropped (there was no room); absent where traces are off.", "result"),
		restarts:        plain("mayfly_rollout_restarts_total", "Workloads that were restarted for a rotation."),
		secrets:         counter("mayfly_secret_syncs_total", "Kubernetes Secrets of classes that the driver asked the API server about: written, unchanged, outdated (it was made from a later read or class), foreign (it has another owner), forbidden, invalid or failed.", "result"),
		apiRequests:     counter("mayfly_api_requests_total", "Requests to the API server.", "verb", "code"),
	}
	m.unpublishes.WithLabelValues(osType)
	m.unpublishErrors.WithLabelValues(osType)
	for _, reason := range fault.Reasons() {
		m.publishErrors.WithLabelValues("", osType, string(reason)) // until a class names a provider
	}
	for _, step := range volume.Steps() {
		m.stepSeconds.WithLabelValues(string(volume.Published), string(step))
		m.stepSeconds.WithLabelValues(string(volume.Refreshed), string(step))
	}
	m.registry.MustRegister(m.publishes, m.publishErrors, m.unpublishes, m.unpublishErrors, m.refreshes, m.refreshErrors,
		m.refreshSeconds, m.rotations, m.lastGood, m.releases, m.setAside, m.callSeconds,
		m.audited, m.unaudited, m.auditing, m.auditedLine, m.stepSeconds, m.requests, m.obtained, m.requestSeconds, m.apiRequests, m.spans, m.secrets, m.restarts,
		gauge("mayfly_volumes", "Volumes on this node.", volumes),
		gauge("mayfly_volumes_failing", "Volumes whose last refresh failed.", failing),
		buildInfo(version),
		collectors.NewGoCollector(), newProcess())
	return m
}

func plain(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func histogram(name, help string, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: []float64{.001, .005, .01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
	}, labels)
}

func gauge(name, help string, value func() int) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(value()) })
}

func buildInfo(version string) prometheus.Collector {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mayfly_build_info", Help: "The driver's version; the value is 1."}, []string{"version"})
	g.WithLabelValues(version).Set(1)
	return g
}

// WatchPlugins exports, for each provider plugin in use, whether it answers. The series of the
// plugins that there returns exist from the next scrape on.
func (m *Metrics) WatchPlugins(there func() []string, answering func() map[string]bool) {
	m.plugins = there
	m.registry.MustRegister(plugins{
		desc:      prometheus.NewDesc("mayfly_provider_plugin_up", "Whether a provider plugin in use answered the last health check (every 30 s): 1 or 0.", []string{"provider"}, nil),
		answering: answering,
	})
}

// WatchBudget exports the use of the memory budget, and its limit.
func (m *Metrics) WatchBudget(usage func() budget.Usage) {
	m.registry.MustRegister(memory{
		bytes: prometheus.NewDesc("mayfly_memory_budget_bytes", "Bytes charged to the memory budget: contents (files in volumes), answers (of stores, being read), cache (stored answers and classes), records (the state).", []string{"kind"}, nil),
		limit: prometheus.NewDesc("mayfly_memory_budget_limit_bytes", "The node's memory budget, 0 for none.", nil, nil),
		usage: usage,
	})
}

// memory collects its metrics from one reading of the budget.
type memory struct {
	bytes, limit *prometheus.Desc
	usage        func() budget.Usage
}

// Describe implements prometheus.Collector.
func (b memory) Describe(to chan<- *prometheus.Desc) { to <- b.bytes; to <- b.limit }

// Collect implements prometheus.Collector.
func (b memory) Collect(to chan<- prometheus.Metric) {
	u := b.usage()
	for kind, bytes := range u.ByKind {
		to <- prometheus.MustNewConstMetric(b.bytes, prometheus.GaugeValue, float64(bytes), string(kind))
	}
	to <- prometheus.MustNewConstMetric(b.limit, prometheus.GaugeValue, float64(u.Limit))
}

// plugins creates its metrics at each scrape, because providers come and go.
type plugins struct {
	desc      *prometheus.Desc
	answering func() map[string]bool
}

// Describe implements prometheus.Collector.
func (p plugins) Describe(to chan<- *prometheus.Desc) { to <- p.desc }

// Collect implements prometheus.Collector.
func (p plugins) Collect(to chan<- prometheus.Metric) {
	for name, answers := range p.answering() {
		up := 0.0
		if answers {
			up = 1
		}
		to <- prometheus.MustNewConstMetric(p.desc, prometheus.GaugeValue, up, name)
	}
}

// Handler serves the metrics. They are not compressed: for a scrape of some hundred
// kilobytes that took half of its CPU time, and a megabyte of memory.
func (m *Metrics) Handler() http.Handler {
	scrape := promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true, DisableCompression: true})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range m.plugins() {
			m.KnowProvider(name)
		}
		scrape.ServeHTTP(w, r)
	})
}

// ObserveCall counts one gRPC call.
func (m *Metrics) ObserveCall(method string, code codes.Code, took time.Duration) {
	m.callSeconds.WithLabelValues(path.Base(method), code.String()).Observe(took.Seconds())
}

// KnowSpans has the series of spans exist from the start.
func (m *Metrics) KnowSpans(results ...string) {
	for _, r := range results {
		m.spans.WithLabelValues(r)
	}
}

// CountSpans counts spans of traces.
func (m *Metrics) CountSpans(result string, spans int) {
	m.spans.WithLabelValues(result).Add(float64(spans))
}

// Audit returns the metrics of the audit trail.
func (m *Metrics) Audit() Audit { return Audit{m} }

// Audit implements audit.Meter.
type Audit struct{ m *Metrics }

// AuditWritten counts a written line.
func (a Audit) AuditWritten() { a.m.audited.Inc() }

// AuditLost counts a line that could not be written.
func (a Audit) AuditLost() { a.m.unaudited.Inc() }

// AuditFailed counts a failed attempt to write a line.
func (a Audit) AuditFailed() { a.m.auditing.Inc() }

// AuditChain records the number of the last line.
func (a Audit) AuditChain(seq uint64) { a.m.auditedLine.Set(float64(seq)) }

// Observe implements volume.Observer.
func (m *Metrics) Observe(o volume.Outcome) {
	reason := string(o.Reason())
	m.observeSteps(o)
	switch o.Kind {
	case volume.Published:
		if o.Err != nil {
			m.publishErrors.WithLabelValues(o.Provider, osType, reason).Inc()
			return
		}
		m.publishes.WithLabelValues(o.Provider, osType).Inc()
		if !o.AsOf.IsZero() {
			m.lastGood.WithLabelValues(o.Provider).Inc()
		}
	case volume.Unpublished:
		if o.Err != nil {
			m.unpublishErrors.WithLabelValues(osType).Inc()
			return
		}
		m.unpublishes.WithLabelValues(osType).Inc()
	case volume.Refreshed:
		m.observeRefresh(o, reason)
	case volume.SetAside:
		m.setAside.Inc()
	case volume.Released:
		result := resultOK
		if o.Err != nil {
			result = resultGivenUp
		}
		m.releases.WithLabelValues(o.Provider, result).Inc()
	}
}

// observeSteps adds the trace and the id of the first request to the store as an exemplar. The
// store's own audit log has the same id.
func (m *Metrics) observeSteps(o volume.Outcome) {
	exemplar := exemplarOf(o)
	for _, s := range o.Steps {
		h := m.stepSeconds.WithLabelValues(string(o.Kind), string(s.Step))
		if x, ok := h.(prometheus.ExemplarObserver); ok && s.Step == volume.StepStore && exemplar != nil {
			x.ObserveWithExemplar(s.Took.Seconds(), exemplar)
			continue
		}
		h.Observe(s.Took.Seconds())
	}
}

// maxExemplar keeps an exemplar's labels within OpenMetrics' 128 characters,
// together with a trace's id.
const maxExemplar = 70

// exemplarOf is nil where there is nothing to say.
func exemplarOf(o volume.Outcome) prometheus.Labels {
	if len(o.Asked) == 0 && o.Trace == "" {
		return nil
	}
	x := prometheus.Labels{}
	if len(o.Asked) > 0 && len(o.Asked[0]) <= maxExemplar {
		x["correlation_id"] = o.Asked[0]
	}
	if o.Trace != "" {
		x["trace_id"] = o.Trace
	}
	return x
}

func (m *Metrics) observeRefresh(o volume.Outcome, reason string) {
	rotated := "false"
	if o.Changed {
		rotated = "true"
	}
	m.refreshSeconds.WithLabelValues(osType).Observe(o.Took.Seconds())
	if o.Err != nil {
		m.refreshErrors.WithLabelValues(o.Provider, osType, reason, rotated).Inc()
		return
	}
	m.refreshes.WithLabelValues(o.Provider, osType, rotated).Inc()
	if o.Changed {
		m.rotations.WithLabelValues(o.Provider).Inc()
	}
}
