package wire

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/collector"
	"github.com/mayfly-csi/mayfly/test/kubelet"
	"github.com/mayfly-csi/mayfly/test/testkit"
	"github.com/mayfly-csi/mayfly/test/vaulttest"
)

// values returns the allowed values of each label: classes and pods cannot create other series.
func values() map[string][]string {
	all := map[string][]string{
		"provider": {"vault", "openbao", "akeyless", ""}, "os_type": {"linux"}, "shared": {"yes", "no"}, "rotated": {"true", "false"}, "version": {"test"},
		"result": {"ok", "given_up"}, "kind": {string(volume.Published), string(volume.Refreshed), string(budget.Contents), string(budget.Answers), string(budget.Cache), string(budget.Records)},
		"method": {"NodePublishVolume", "NodeUnpublishVolume", "GetPluginInfo", "GetInfo", "NotifyRegistrationStatus", "Probe"},
		"code":   {"2xx", "3xx", "403", "404", "429", "4xx", "503", "5xx", "none"},
	}
	for c := codes.OK; c <= codes.Unauthenticated; c++ {
		all["code"] = append(all["code"], c.String())
	}
	for _, r := range fault.Reasons() {
		all["error_type"] = append(all["error_type"], string(r))
	}
	for _, o := range endpoint.Operations() {
		all["operation"] = append(all["operation"], string(o))
	}
	for _, s := range volume.Steps() {
		all["step"] = append(all["step"], string(s))
	}
	return all
}

// TestMetricsOfADriver: each event is counted, and no label has a value of a class, a pod or the store.
func TestMetricsOfADriver(t *testing.T) {
	r := newRig(t, nil)
	r.class("secrets")
	p := r.pod("web-0", "web", "secrets")
	r.publish(p)
	second := r.pod("web-1", "web", "secrets")
	r.publish(second) // shares the login and the read
	testkit.Must(t, r.Unpublish(t.Context(), second))
	r.put("db", "two")
	r.refresh <- unix.SIGHUP
	r.eventually("the file is rotated", func() bool { return r.file(p, "password") == marker+"-two" })
	_ = r.refuse(r.pod("intruder", "other", "secrets"))
	r.writeClass("strange", "an-unknown-provider", "- {objectName: password}", nil)
	_ = r.refuse(r.pod("strange", "web", "strange"))
	_ = r.refuse(r.pod("classless", "web", "an-unknown-class"))
	r.manifest("missing", "- {objectName: password, secretPath: secret/data/none, secretKey: password}")
	_ = r.refuse(r.pod("missing", "web", "missing"))
	testkit.Must(t, r.Unpublish(t.Context(), p))
	var text string
	r.eventually("all volumes are released", func() bool {
		_, text = r.get("/metrics")
		return strings.Contains(text, "mayfly_releases_pending 0\n") && !strings.Contains(text, `mayfly_releases_total{provider="vault",result="ok"} 0`)
	})
	for _, want := range []string{
		`node_publish_total{os_type="linux",provider="vault"} 2`,
		`mayfly_volume_requests_total{operation="login",provider="vault",shared="no"} 1`,
		`mayfly_volume_requests_total{operation="login",provider="vault",shared="yes"} 1`,
		`mayfly_volume_requests_total{operation="read",provider="vault",shared="yes"} 1`,
		`node_publish_error_total{error_type="Denied",os_type="linux",provider="vault"} 1`,
		`node_publish_error_total{error_type="UnknownProvider",os_type="linux",provider=""} 1`,
		`node_publish_error_total{error_type="ClassNotFound",os_type="linux",provider=""} 1`,
		`node_publish_error_total{error_type="NotFound",os_type="linux",provider="vault"} 1`,
		`rotation_reconcile_total{os_type="linux",provider="vault",rotated="true"} 1`,
		`mayfly_rotations_total{provider="vault"} 1`,
		`mayfly_store_requests_total{code="403",operation="login",provider="vault"} 1`,
		`node_unpublish_total{os_type="linux"} 2`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no line %q", want)
		}
	}
	allowed := values()
	for name, f := range families(t, text) {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if !slices.Contains(allowed[l.GetName()], l.GetValue()) {
					t.Errorf("%s has %s=%q", name, l.GetName(), l.GetValue())
				}
			}
		}
	}
	r.noSecretIn("the metrics", text)
	r.wantExemplar()
}

// wantExemplar checks that exemplars have ids of requests in Vault's audit log.
func (r *rig) wantExemplar() {
	r.t.Helper()
	request := testkit.Value(http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://"+r.health+"/metrics", nil))(r.t)
	request.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	response := testkit.Value(http.DefaultClient.Do(request))(r.t)
	defer func() { _ = response.Body.Close() }()
	text := testkit.Value(io.ReadAll(response.Body))(r.t)
	entries := testkit.Value(r.vault.AuditEntries(r.t.Context()))(r.t)
	found := regexp.MustCompile(`(?m)^mayfly_step_duration_seconds_bucket\{.*step="store".*\} [0-9.]+ # \{correlation_id="([^"]+)"\}`).FindAllSubmatch(text, -1)
	if len(found) == 0 {
		r.t.Error("no exemplar has a correlation id")
	}
	for _, m := range found {
		if !slices.ContainsFunc(entries, func(e vaulttest.AuditEntry) bool { return slices.Contains(e.Headers["x-correlation-id"], string(m[1])) }) {
			r.t.Errorf("Vault's audit log has no request %s, which an exemplar has", m[1])
		}
	}
}

// movedElsewhere has the metrics that this test does not move, and the tests that do.
var movedElsewhere = map[string]string{
	"mayfly_api_requests_total":     "test/e2e: Prometheus answers every query",
	"mayfly_secret_syncs_total":     "test/e2e: pods use the Kubernetes Secrets of their own class",
	"mayfly_rollout_restarts_total": "pkg/rollout: TestOneRollout; it needs Deployments",
	"mayfly_provider_plugin_up":     "pkg/provider/plugin: the first health check is after 30 s",
	"mayfly_audit_lost_lines_total": "pkg/audit: a line is lost after 4,096 that cannot be written",
}

// scrapes has the results of a test's scrapes.
type scrapes struct {
	*rig
	// moved are the metrics, and the series of counters and histograms, that were not 0.
	moved map[string]bool
	// known are the series of counters that existed at 0.
	known map[string]bool
}

// families are the driver's metrics, without those of Go and of the process.
func families(t *testing.T, text string) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	all := testkit.Value(parser.TextToMetricFamilies(strings.NewReader(text)))(t)
	for name := range all {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			delete(all, name)
		}
	}
	return all
}

// scrape reads the metrics as Prometheus does. A series of a counter must exist at 0: otherwise
// Prometheus sees no increase when it appears.
func (s *scrapes) scrape() {
	s.t.Helper()
	_, text := s.get("/metrics")
	for name, f := range families(s.t, text) {
		for _, m := range f.GetMetric() {
			moved := m.GetCounter().GetValue() != 0 || m.GetGauge().GetValue() != 0 || m.GetHistogram().GetSampleCount() != 0
			series := seriesOf(name, m)
			s.moved[name], s.moved[series] = s.moved[name] || moved, s.moved[series] || moved
			if f.GetType() != dto.MetricType_COUNTER {
				continue
			}
			if moved && !s.known[series] {
				s.t.Errorf("the series %s appears with the value %v", series, m.GetCounter().GetValue())
			}
			s.known[series] = true
		}
	}
}

// seriesOf is a series in Prometheus' notation, without quotes.
func seriesOf(name string, m *dto.Metric) string {
	var labels []string
	for _, l := range m.GetLabel() {
		labels = append(labels, l.GetName()+"="+l.GetValue())
	}
	slices.Sort(labels)
	return name + "{" + strings.Join(labels, ",") + "}"
}

func (s *scrapes) await(metric string) {
	s.t.Helper()
	s.eventually(metric+" moves", func() bool {
		s.scrape()
		return s.moved[metric]
	})
}

func request(code, operation string) string {
	return "mayfly_store_requests_total{" + code + ",operation=" + operation + ",provider=vault}"
}

// renew mounts a volume whose Vault token has a TTL of 3 s, so that it is renewed and revoked.
func (s *scrapes) renew() {
	s.t.Helper()
	testkit.Must(s.t, s.vault.Bind(s.t.Context(), "short", "short", "shop", "web", map[string]any{"token_ttl": "3s", "token_max_ttl": "1h"}))
	s.writeClass("short", "vault", "- {objectName: password, secretPath: secret/data/db, secretKey: password}", []string{"roleName: short", "refreshInterval: 1s"})
	pod := s.pod("short", "short", "short")
	s.publish(pod)
	s.await(request("code=2xx", "renew"))
	testkit.Must(s.t, s.Unpublish(s.t.Context(), pod))
	s.await(request("code=2xx", "revoke"))
}

// TestEveryMetricMoves: the driver records each metric of docs/operating.md, and its counters begin at
// 0.
func TestEveryMetricMoves(t *testing.T) {
	c := testkit.Value(collector.Start(""))(t)
	t.Cleanup(c.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.Endpoint)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
	p := newPluginRig(t, "slave")
	p.stop()
	demand, before, trail := make(chan os.Signal), p.change, p.auditLog()
	p.change = func(n *node.Config) {
		before(n)
		n.Traces, n.MemoryBudget, n.LastGoodAge, n.RefreshNow, n.RefreshWorkers, n.AuditLog = true, 64<<20, time.Hour, demand, 1, trail
	}
	p.start()
	s := &scrapes{rig: p.rig, moved: map[string]bool{}, known: map[string]bool{}}
	s.scrape()

	testkit.Must(t, s.vault.EnablePKI(t.Context(), "pki", "web"))
	testkit.Must(t, s.vault.Policy(t.Context(), "web", `path "secret/data/*" { capabilities = ["read"] }
path "pki/issue/web" { capabilities = ["update"] }`))
	s.class("secrets", "onUnavailable: lastGood", "refreshInterval: 1s")
	s.manifest("certificate", "- {objectName: cert, secretPath: pki/issue/web, method: POST, secretArgs: {common_name: web, ttl: 6s}, secretKey: certificate}")
	p.class("written")
	web, tls, written := s.pod("web", "web", "secrets"), s.pod("tls", "web", "certificate"), s.pod("written", "web", "written")
	for _, pod := range []kubelet.Pod{web, tls, written} {
		s.publish(pod)
	}
	_ = s.refuse(s.pod("intruder", "other", "secrets"))
	_ = s.refuse(s.pod("stranger", "stranger", "written"))
	_ = s.refuse(s.pod("classless", "web", "an-unknown-class"))
	s.renew()
	s.await(request("code=403", "check")) // the policy does not have the metadata
	s.put("db", "two")
	demand <- unix.SIGHUP
	s.await("mayfly_rotations_total")

	testkit.Must(t, s.vault.Seal(t.Context()))
	demand <- unix.SIGHUP
	s.await("mayfly_volumes_failing")
	for _, metric := range []string{"mayfly_failing_next_expiry_timestamp_seconds", "mayfly_store_circuits_open", "mayfly_queue_length", "mayfly_queue_lateness_seconds"} {
		s.await(metric)
	}
	pods := []kubelet.Pod{web, tls}
	s.eventually("a pod gets last good content", func() bool {
		late := s.pod(fmt.Sprintf("late-%d", len(pods)), "web", "secrets")
		s.publish(late)
		pods = append(pods, late)
		s.scrape()
		return s.moved["mayfly_last_good_total"]
	})
	for _, pod := range pods { // the last one leaves a Vault token, which waits for Vault
		testkit.Must(t, s.Unpublish(t.Context(), pod))
	}
	s.await("mayfly_releases_pending")
	testkit.Must(t, s.vault.Unseal(t.Context()))
	s.await("mayfly_trace_spans_total")

	// A file in the way of an unmounted target's removal.
	testkit.Must(t, unix.Unmount(s.Target(written), unix.MNT_DETACH))
	file := filepath.Join(s.Target(written), "file")
	testkit.Must(t, os.WriteFile(file, nil, 0o600))
	if err := s.Unpublish(t.Context(), written); err == nil {
		t.Error("an unpublish left a file without an error")
	}
	s.scrape()
	testkit.Must(t, os.Remove(file))
	testkit.Must(t, s.Unpublish(t.Context(), written))

	// A record that cannot be read, and a full disk.
	s.eventually("kubelet's next try succeeds", func() bool { return s.Publish(t.Context(), web) == nil })
	s.scrape()
	s.stop()
	records := testkit.Value(filepath.Glob(filepath.Join(s.dir, "state/volumes/*.json")))(t)
	for _, record := range records {
		testkit.Must(t, os.WriteFile(record, []byte("not a record"), 0o600))
	}
	full := t.TempDir()
	testkit.Must(t, unix.Mount("tmpfs", full, "tmpfs", 0, "size=4k"))
	t.Cleanup(func() { _ = unix.Unmount(full, unix.MNT_DETACH) })
	testkit.Must(t, os.WriteFile(filepath.Join(full, "other"), make([]byte, 4<<10), 0o600))
	trail = filepath.Join(full, "audit.log")
	s.start()
	s.await("mayfly_records_set_aside_total")
	s.await("mayfly_audit_write_errors_total")

	for _, step := range volume.Steps() {
		for _, kind := range []volume.Kind{volume.Published, volume.Refreshed} {
			if series := fmt.Sprintf("mayfly_step_duration_seconds{kind=%s,step=%s}", kind, step); s.moved[series] == (step == volume.StepFollow) {
				t.Errorf("%s: moved %t", series, s.moved[series])
			}
		}
	}
	for _, series := range []string{
		request("code=2xx", "login"), request("code=403", "login"), request("code=2xx", "read"), request("code=503", "read"), request("code=2xx", "issue"),
	} {
		if took := strings.Replace(series, "requests_total", "request_duration_seconds", 1); !s.moved[series] || !s.moved[took] {
			t.Errorf("%s moved %t, %s moved %t", series, s.moved[series], took, s.moved[took])
		}
	}
	page := testkit.Value(os.ReadFile("../../docs/operating.md"))(t)
	documented := regexp.MustCompile("(?m)^\\| `((?:mayfly|node|rotation)_[a-z_]+)` \\|").FindAllStringSubmatch(string(page), -1)
	if len(documented) < 30 {
		t.Errorf("docs/operating.md has %d metrics", len(documented))
	}
	for _, m := range documented {
		if s.moved[m[1]] == (movedElsewhere[m[1]] != "") {
			t.Errorf("metric %s: moved %t, %q", m[1], s.moved[m[1]], movedElsewhere[m[1]])
		}
	}
}
