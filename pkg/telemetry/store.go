package telemetry

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// noAnswer is the code of a request without an answer.
const noAnswer = "none"

// The values of the label shared.
const (
	sharedYes = "yes"
	sharedNo  = "no"
)

// codeValues are all values of the label code: a server may answer with any number.
func codeValues() []string {
	return []string{"2xx", "3xx", "403", "404", "429", "4xx", "503", "5xx", noAnswer}
}

// codeOf converts a status to a label value.
func codeOf(status int) string {
	switch {
	case status == http.StatusForbidden, status == http.StatusNotFound, status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable:
		return strconv.Itoa(status)
	case status >= 200 && status < 300:
		return "2xx"
	case status >= 300 && status < 400:
		return "3xx"
	case status >= 400 && status < 500:
		return "4xx"
	case status == 0:
		return noAnswer
	}
	return "5xx"
}

// KnowProvider creates the series of a provider at 0; operations are a built-in provider's. To Prometheus, a series that first
// appears at 1 has not increased.
func (m *Metrics) KnowProvider(name string, operations ...string) {
	m.publishes.WithLabelValues(name, osType)
	m.rotations.WithLabelValues(name)
	m.lastGood.WithLabelValues(name)
	for _, result := range []string{resultOK, resultGivenUp} {
		m.releases.WithLabelValues(name, result)
	}
	for _, rotated := range []string{"true", "false"} {
		m.refreshes.WithLabelValues(name, osType, rotated)
	}
	m.refreshErrors.WithLabelValues(name, osType, string(fault.Denied), "true") // onDenied: empty
	for _, reason := range fault.Reasons() {
		m.publishErrors.WithLabelValues(name, osType, string(reason))
		m.refreshErrors.WithLabelValues(name, osType, string(reason), "false")
	}
	for _, operation := range operations {
		for _, code := range codeValues() {
			m.requests.WithLabelValues(name, operation, code)
		}
	}
}

// KnowShared creates the series of CountShared for an operation at 0.
func (m *Metrics) KnowShared(provider, operation string) {
	for _, shared := range []string{sharedYes, sharedNo} {
		m.obtained.WithLabelValues(provider, operation, shared)
	}
}

// CountShared counts a login or read that a volume needed, and whether another volume's served it.
func (m *Metrics) CountShared(provider, operation string, shared bool) {
	value := sharedNo
	if shared {
		value = sharedYes
	}
	m.obtained.WithLabelValues(provider, operation, value).Inc()
}

// ObserveRequest counts one request to a store; status is 0 for no answer.
func (m *Metrics) ObserveRequest(provider, operation string, status int, took time.Duration) {
	code := codeOf(status)
	m.requests.WithLabelValues(provider, operation, code).Inc()
	m.requestSeconds.WithLabelValues(provider, operation, code).Observe(took.Seconds())
}

// KnowSecretResult creates the series of a result of CountSecret.
func (m *Metrics) KnowSecretResult(result string) { m.secrets.WithLabelValues(result) }

// CountSecret counts the result for one Kubernetes Secret.
func (m *Metrics) CountSecret(result string) { m.secrets.WithLabelValues(result).Inc() }

// CountRestart counts a workload that was restarted.
func (m *Metrics) CountRestart() { m.restarts.Inc() }

// CountAPIRequests counts the requests that a transport sends to the API server. Their
// series exist from now on.
func (m *Metrics) CountAPIRequests(next http.RoundTripper) http.RoundTripper {
	for _, verb := range []string{"get", "watch", "post", "put", "patch", "delete"} {
		for _, code := range codeValues() {
			m.apiRequests.WithLabelValues(verb, code)
		}
	}
	return &counted{next, m.apiRequests}
}

type counted struct {
	next  http.RoundTripper
	count *prometheus.CounterVec
}

// RoundTrip implements http.RoundTripper.
func (c *counted) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	status := 0
	if err == nil {
		status = resp.StatusCode
	}
	verb := strings.ToLower(r.Method)
	if watch, _ := strconv.ParseBool(r.URL.Query().Get("watch")); watch {
		verb = "watch"
	}
	c.count.WithLabelValues(verb, codeOf(status)).Inc()
	return resp, err
}

// WatchVolumes exports when the volumes were last refreshed, when their credentials expire, and the
// state of the queues.
func (m *Metrics) WatchVolumes(volumes func() []volume.Status, beside func() volume.Overview) {
	m.registry.MustRegister(ages{
		all: volumeTimes{
			oldest: prometheus.NewDesc("mayfly_oldest_success_timestamp_seconds", "Last successful read of the volume whose last successful read is oldest; absent without volumes.", nil, nil),
			ends:   prometheus.NewDesc("mayfly_next_expiry_timestamp_seconds", "When the first of the credentials in volumes expires, unless it is renewed before; absent without credentials.", nil, nil),
		},
		failing: volumeTimes{
			oldest: prometheus.NewDesc("mayfly_failing_oldest_success_timestamp_seconds", "mayfly_oldest_success_timestamp_seconds of the volumes whose last refresh failed; absent without such volumes.", nil, nil),
			ends:   prometheus.NewDesc("mayfly_failing_next_expiry_timestamp_seconds", "mayfly_next_expiry_timestamp_seconds of the volumes whose last refresh failed; absent without such credentials.", nil, nil),
		},
		due:    prometheus.NewDesc("mayfly_queue_length", "Refreshes that are due and wait for a worker.", []string{"provider"}, nil),
		late:   prometheus.NewDesc("mayfly_queue_lateness_seconds", "How long the refresh that is overdue most has waited.", []string{"provider"}, nil),
		ending: prometheus.NewDesc("mayfly_releases_pending", "Unpublished volumes whose credentials are not revoked yet.", nil, nil),

		volumes: volumes, beside: beside,
	})
}

// ages collects its metrics from one reading of the volumes.
type ages struct {
	all, failing      volumeTimes
	due, late, ending *prometheus.Desc

	volumes func() []volume.Status
	beside  func() volume.Overview
}

// volumeTimes are the earliest times of some volumes.
type volumeTimes struct{ oldest, ends *prometheus.Desc }

func (d volumeTimes) collect(to chan<- prometheus.Metric, volumes []volume.Status) {
	var oldest, ends time.Time
	for _, v := range volumes {
		oldest = clock.Earliest(oldest, v.RefreshedAt, v.AsOf)
		for _, end := range v.Ends {
			ends = clock.Earliest(ends, end)
		}
	}
	for desc, at := range map[*prometheus.Desc]time.Time{d.oldest: oldest, d.ends: ends} {
		if !at.IsZero() {
			to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, seconds(at))
		}
	}
}

// Describe implements prometheus.Collector.
func (a ages) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{a.all.oldest, a.all.ends, a.failing.oldest, a.failing.ends, a.due, a.late, a.ending} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (a ages) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	volumes := slices.DeleteFunc(a.volumes(), func(v volume.Status) bool {
		return v.State == volume.Publishing || v.State == volume.Unpublishing
	})
	a.all.collect(to, volumes)
	a.failing.collect(to, slices.DeleteFunc(volumes, func(v volume.Status) bool { return v.Failures == 0 }))
	o := a.beside()
	due, late, now := map[string]int{}, map[string]time.Duration{}, time.Now()
	for _, q := range o.Queues {
		provider, _, _ := strings.Cut(q.Store, " ")
		due[provider] += q.Overdue
		if !q.NextAt.IsZero() {
			late[provider] = max(late[provider], now.Sub(q.NextAt))
		}
	}
	for provider, n := range due {
		gauge(a.due, float64(n), provider)
		gauge(a.late, late[provider].Seconds(), provider)
	}
	gauge(a.ending, float64(len(o.Revocations)))
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// WatchStores exports how many circuits are open, by provider.
func (m *Metrics) WatchStores(open func() map[string]int) {
	m.registry.MustRegister(circuits{
		desc: prometheus.NewDesc("mayfly_store_circuits_open", "Open circuits: after failures they delay requests; the status page lists them.", []string{"provider"}, nil),
		open: open,
	})
}

type circuits struct {
	desc *prometheus.Desc
	open func() map[string]int
}

// Describe implements prometheus.Collector.
func (c circuits) Describe(to chan<- *prometheus.Desc) { to <- c.desc }

// Collect implements prometheus.Collector.
func (c circuits) Collect(to chan<- prometheus.Metric) {
	for provider, n := range c.open() {
		to <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, float64(n), provider)
	}
}
