package telemetry_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"google.golang.org/grpc/codes"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/pkg/telemetry"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// scrape has every metric recorded once, and reads them as Prometheus would.
func scrape(t *testing.T) string {
	t.Helper()
	m := telemetry.New("v1", func() int { return 3 }, func() int { return 2 })
	m.WatchPlugins(func() []string { return []string{"aws", "gcp"} }, func() map[string]bool { return map[string]bool{"aws": true, "gcp": false} })
	b := budget.New(budget.Limits{Node: 100})
	b.Adopt(budget.Owner{Namespace: "a"}, budget.Contents, 7)
	m.WatchBudget(b.Usage)
	denied := fault.New(fault.Denied, "no")
	for _, kind := range []volume.Kind{volume.Published, volume.Refreshed, volume.Unpublished, volume.Released, volume.SetAside} {
		m.Observe(volume.Outcome{Kind: kind, Provider: "vault", Changed: true, Took: time.Second, AsOf: time.Now(),
			Asked: []string{"9f86d081"}, Trace: "0af7651916cd43dd8448eb211c80319c", Steps: []volume.StepTime{{Step: volume.StepStore, Took: time.Second}}})
		m.Observe(volume.Outcome{Kind: kind, Provider: "vault", Err: denied})
	}
	m.Observe(volume.Outcome{Kind: volume.Refreshed, Provider: "vault", Changed: true, Emptied: true, Err: denied})
	m.KnowProvider("vault", "login", "read")
	m.KnowProvider("akeyless")
	m.KnowSecretResult("written")
	m.CountSecret("written")
	m.CountRestart()
	m.CountShared("vault", "read", true)
	m.CountShared("vault", "read", false)
	m.ObserveRequest("vault", "read", 200, time.Second)
	m.ObserveRequest("vault", "read", 418, time.Second)
	m.ObserveRequest("vault", "login", 0, time.Second)
	m.KnowSpans("sent", "failed")
	m.CountSpans("sent", 5)
	m.Audit().AuditChain(7)
	countAPI(t, m)
	fresh := time.Unix(1000, 0)
	m.WatchVolumes(func() []volume.Status {
		return []volume.Status{
			{State: volume.Fresh, Progress: volume.Progress{RefreshedAt: fresh.Add(time.Hour), Ends: []time.Time{time.Unix(9000, 0), time.Unix(7000, 0)}}},
			{State: volume.Failing, Progress: volume.Progress{RefreshedAt: fresh.Add(time.Minute), Failures: 1, Ends: []time.Time{time.Unix(8000, 0)}}},
			{State: volume.FromMemory, Progress: volume.Progress{RefreshedAt: fresh.Add(time.Hour), AsOf: fresh}},
			{State: volume.Publishing},
		}
	}, func() volume.Overview {
		return volume.Overview{Revocations: make([]volume.Revocation, 4), Queues: []schedule.Queue{
			{Store: "vault at https://a", Overdue: 2, NextAt: time.Now().Add(time.Hour)}, {Store: "vault at https://b", Overdue: 1, NextAt: time.Now().Add(time.Hour)},
			{Store: "akeyless at https://c", Overdue: 1, NextAt: time.Now().Add(-time.Hour)},
		}}
	})
	m.WatchStores(func() map[string]int { return map[string]int{"vault": 2, "akeyless": 0} })
	m.Audit().AuditWritten()
	m.Audit().AuditWritten()
	m.Audit().AuditLost()
	m.Audit().AuditFailed()
	m.ObserveCall("/csi.v1.Node/NodePublishVolume", codes.OK, time.Millisecond)
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	open := httptest.NewRequest("GET", "/metrics", nil)
	open.Header.Set("Accept", "application/openmetrics-text")
	o := httptest.NewRecorder()
	m.Handler().ServeHTTP(o, open)
	testkit.Has(t, o.Body.String(), `# {correlation_id="9f86d081",trace_id="0af7651916cd43dd8448eb211c80319c"} 1.0`)
	return w.Body.String()
}

// countAPI makes a request that is answered, a watch, and one that is not.
func countAPI(t *testing.T, m *telemetry.Metrics) {
	t.Helper()
	server := httptest.NewServer(http.NotFoundHandler())
	transport := m.CountAPIRequests(http.DefaultTransport)
	for _, query := range []string{"", "?watch=true"} {
		r := testkit.Value(http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+query, nil))(t)
		resp := testkit.Value(transport.RoundTrip(r))(t)
		_ = resp.Body.Close()
		if query == "" {
			continue
		}
		server.Close()
		if resp, err := transport.RoundTrip(r); err == nil {
			_ = resp.Body.Close()
			t.Fatal("a closed server answers")
		}
	}
}

// TestLint checks the metrics by Prometheus' rules, except for the incumbent's names.
func TestLint(t *testing.T) {
	problems := testkit.Value(promlint.New(strings.NewReader(scrape(t))).Lint())(t)
	for _, p := range problems {
		if p.Metric != "rotation_reconcile_duration_sec" && p.Metric != "node_publish_total" {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// TestSeriesExistAtZero: to Prometheus, a series that first appears at 1 has not increased.
func TestSeriesExistAtZero(t *testing.T) {
	m := telemetry.New("v1", func() int { return 0 }, func() int { return 0 })
	m.KnowProvider("vault", "login")
	m.KnowShared("vault", "login")
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{
		`mayfly_store_requests_total{code="429",operation="login",provider="vault"} 0`,
		`mayfly_store_requests_total{code="none",operation="login",provider="vault"} 0`,
		`mayfly_releases_total{provider="vault",result="given_up"} 0`,
		`mayfly_volume_requests_total{operation="login",provider="vault",shared="yes"} 0`,
		`node_publish_total{os_type="linux",provider="vault"} 0`,
		`node_publish_error_total{error_type="Unavailable",os_type="linux",provider="vault"} 0`,
		`rotation_reconcile_error_total{error_type="Denied",os_type="linux",provider="vault",rotated="false"} 0`,
		`mayfly_step_duration_seconds_count{kind="refresh",step="write"} 0`,
		`node_unpublish_error_total{os_type="linux"} 0`,
	} {
		testkit.Has(t, w.Body.String(), want+"\n")
	}
}

func TestEveryOutcomeIsCounted(t *testing.T) {
	text := scrape(t)
	for _, want := range []string{
		`node_publish_total{os_type="linux",provider="vault"} 1`,
		`node_publish_error_total{error_type="Denied",os_type="linux",provider="vault"} 1`,
		`node_unpublish_total{os_type="linux"} 1`,
		`node_unpublish_error_total{os_type="linux"} 1`,
		`rotation_reconcile_total{os_type="linux",provider="vault",rotated="true"} 1`,
		`rotation_reconcile_error_total{error_type="Denied",os_type="linux",provider="vault",rotated="false"} 1`,
		`rotation_reconcile_error_total{error_type="Denied",os_type="linux",provider="vault",rotated="true"} 1`,
		`rotation_reconcile_error_total{error_type="Denied",os_type="linux",provider="akeyless",rotated="true"} 0`,
		`rotation_reconcile_duration_sec_count{os_type="linux"} 3`,
		`mayfly_last_good_total{provider="vault"} 1`,
		`mayfly_rotations_total{provider="vault"} 1`,
		`mayfly_releases_total{provider="vault",result="ok"} 1`,
		`mayfly_releases_total{provider="vault",result="given_up"} 1`,
		`mayfly_audit_lines_total 2`, `mayfly_audit_lost_lines_total 1`, `mayfly_audit_write_errors_total 1`,
		`mayfly_records_set_aside_total 2`,
		`mayfly_provider_plugin_up{provider="aws"} 1`, `mayfly_provider_plugin_up{provider="gcp"} 0`,
		`mayfly_grpc_call_duration_seconds_count{code="OK",method="NodePublishVolume"} 1`,
		`mayfly_memory_budget_bytes{kind="contents"} 7`, `mayfly_memory_budget_bytes{kind="records"} 0`, `mayfly_memory_budget_limit_bytes 100`,
		`mayfly_store_requests_total{code="2xx",operation="read",provider="vault"} 1`,
		`mayfly_store_requests_total{code="4xx",operation="read",provider="vault"} 1`,
		`mayfly_store_requests_total{code="none",operation="login",provider="vault"} 1`,
		`mayfly_store_request_duration_seconds_count{code="2xx",operation="read",provider="vault"} 1`,
		`mayfly_volume_requests_total{operation="read",provider="vault",shared="yes"} 1`, `mayfly_volume_requests_total{operation="read",provider="vault",shared="no"} 1`,
		`mayfly_api_requests_total{code="404",verb="get"} 1`, `mayfly_api_requests_total{code="404",verb="watch"} 1`, `mayfly_api_requests_total{code="none",verb="watch"} 1`,
		`mayfly_step_duration_seconds_sum{kind="refresh",step="store"} 1`,
		`mayfly_oldest_success_timestamp_seconds 1000`, `mayfly_next_expiry_timestamp_seconds 7000`, `mayfly_failing_oldest_success_timestamp_seconds 1060`, `mayfly_failing_next_expiry_timestamp_seconds 8000`, `mayfly_releases_pending 4`,
		`mayfly_queue_length{provider="vault"} 3`, `mayfly_queue_lateness_seconds{provider="vault"} 0`,
		`mayfly_store_circuits_open{provider="vault"} 2`, `mayfly_store_circuits_open{provider="akeyless"} 0`,
		`mayfly_trace_spans_total{result="sent"} 5`, `mayfly_trace_spans_total{result="failed"} 0`,
		`mayfly_volumes 3`, `mayfly_volumes_failing 2`, `mayfly_build_info{version="v1"} 1`,
	} {
		testkit.Has(t, text, want+"\n")
	}
}
