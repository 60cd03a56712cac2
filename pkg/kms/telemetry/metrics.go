// Package telemetry counts the work of mayfly-kms, in Prometheus' format.
package telemetry

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc/codes"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kms/key"
	"github.com/mayfly-csi/mayfly/pkg/kms/plugin"
)

// Metrics implements the meters of the other packages.
type Metrics struct {
	registry *prometheus.Registry

	calls       *prometheus.CounterVec
	callSeconds *prometheus.HistogramVec
	requests    *prometheus.CounterVec
	reqSeconds  *prometheus.HistogramVec
	logins      *prometheus.CounterVec
	tokenEnds   prometheus.Gauge

	audited, unaudited, auditing prometheus.Counter
}

// New registers every metric.
func New(version string) *Metrics {
	m := &Metrics{
		registry:    prometheus.NewRegistry(),
		calls:       counter("mayfly_kms_calls_total", "Calls of the API server, by method, gRPC code, and what answered (vault, local-key, memory).", "method", "code", "answered_by"),
		callSeconds: histogram("mayfly_kms_call_duration_seconds", "Time of a call in seconds.", []float64{.0005, .001, .005, .01, .05, .1, .5, 1, 2, 3, 5}, "method"),
		requests:    counter("mayfly_kms_vault_requests_total", "Requests to one Vault server, by operation and result (ok, or the reason of the failure).", "operation", "result"),
		reqSeconds:  histogram("mayfly_kms_vault_request_duration_seconds", "Time of a request to one Vault server in seconds.", []float64{.001, .005, .01, .05, .1, .5, 1, 2, 3}, "operation"),
		logins:      counter("mayfly_kms_logins_total", "Logins at Vault, by result (ok, or the reason of the failure).", "result"),
		tokenEnds:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "mayfly_kms_token_expiry_timestamp_seconds", Help: "When the Vault token expires; 0 for never, or unknown."}),
		audited:     plain("mayfly_kms_audit_lines_total", "Lines of the audit log that were written."),
		unaudited:   plain("mayfly_kms_audit_lost_lines_total", "Lines of the audit log that were lost."),
		auditing:    plain("mayfly_kms_audit_write_errors_total", "Failed writes of a line of the audit log, which are repeated."),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "mayfly_build_info", Help: "The plugin's version; the value is 1."}, []string{"version"})
	build.WithLabelValues(version).Set(1)
	m.registry.MustRegister(m.calls, m.callSeconds, m.requests, m.reqSeconds, m.logins, m.tokenEnds, m.audited, m.unaudited, m.auditing, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func plain(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Describe sends every metric, for the page that lists them.
func (m *Metrics) Describe(to chan<- *prometheus.Desc) { m.registry.Describe(to) }

// Call implements server.Meter.
func (m *Metrics) Call(method string, code codes.Code, by plugin.By, took time.Duration) {
	m.calls.WithLabelValues(method, code.String(), string(by)).Inc()
	m.callSeconds.WithLabelValues(method).Observe(took.Seconds())
}

// VaultRequest implements store.Meter.
func (m *Metrics) VaultRequest(operation string, err error, took time.Duration) {
	m.requests.WithLabelValues(operation, result(err)).Inc()
	m.reqSeconds.WithLabelValues(operation).Observe(took.Seconds())
}

// Login implements login.Meter.
func (m *Metrics) Login(err error) { m.logins.WithLabelValues(result(err)).Inc() }

// TokenEnds implements login.Meter.
func (m *Metrics) TokenEnds(at time.Time) {
	if at.IsZero() {
		m.tokenEnds.Set(0)
		return
	}
	m.tokenEnds.Set(float64(at.Unix()))
}

// AuditWritten implements audit.Meter.
func (m *Metrics) AuditWritten() { m.audited.Inc() }

// AuditLost implements audit.Meter.
func (m *Metrics) AuditLost() { m.unaudited.Inc() }

// AuditFailed implements audit.Meter.
func (m *Metrics) AuditFailed() { m.auditing.Inc() }

func result(err error) string {
	if err == nil {
		return "ok"
	}
	return string(fault.Of(err))
}

// Watch exports the plugin's condition as metrics.
func (m *Metrics) Watch(condition func() plugin.Condition, outageLimit time.Duration) {
	gauge := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	m.registry.MustRegister(watcher{
		condition: condition, limit: outageLimit,
		healthy:       gauge("mayfly_kms_healthy", "Whether Status answers ok: 1 or 0."),
		good:          gauge("mayfly_kms_last_good_timestamp_seconds", "When Vault and the key last worked; 0 for never."),
		limitSeconds:  gauge("mayfly_kms_outage_limit_seconds", "How long after that the plugin works without Vault, in seconds."),
		key:           gauge("mayfly_kms_key_info", "The announced key id, with its hash as in the API server's metrics; the value is the version of the Transit key.", "key_id", "key_id_hash"),
		latest:        gauge("mayfly_kms_key_latest_version", "The latest version of the Transit key in Vault."),
		minDecryption: gauge("mayfly_kms_key_min_decryption_version", "The key's min_decryption_version."),
		problem:       gauge("mayfly_kms_key_problem", "Whether the key is not the one that was announced (replaced, gone, went_back): 1 or 0.", "problem"),
		local:         gauge("mayfly_kms_local_key", "Whether seeds are encrypted with a key in memory: 1 or 0."),
		mayCreate:     gauge("mayfly_kms_policy_grants_create", "Whether the login's policy grants create on encrypt, which it must not: 1 or 0."),
		opened:        gauge("mayfly_kms_cached_values", "Number of decrypted seeds in memory."),
	})
}

// watcher collects its metrics from one reading of the condition.
type watcher struct {
	condition func() plugin.Condition
	limit     time.Duration

	healthy, good, limitSeconds, key, latest, minDecryption, problem, local, opened, mayCreate *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (w watcher) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{w.healthy, w.good, w.limitSeconds, w.key, w.latest, w.minDecryption, w.problem, w.local, w.opened, w.mayCreate} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (w watcher) Collect(to chan<- prometheus.Metric) {
	c := w.condition()
	set := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	good := 0.0
	if !c.Good.IsZero() {
		good = float64(c.Good.Unix())
	}
	set(w.healthy, number(c.Healthy))
	set(w.good, good)
	set(w.limitSeconds, w.limit.Seconds())
	if c.ID != "" {
		set(w.key, float64(c.Version), c.ID, key.HashOf(c.ID))
	}
	set(w.latest, float64(c.Key.Latest))
	set(w.minDecryption, float64(c.Key.MinDecryption))
	for _, kind := range []key.Kind{key.Replaced, key.Gone, key.WentBack} {
		set(w.problem, number(c.Problem != nil && c.Problem.Kind == kind), string(kind))
	}
	set(w.local, number(c.Local))
	set(w.opened, float64(c.Opened))
	set(w.mayCreate, number(c.MayCreate))
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
