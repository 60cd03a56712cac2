package telemetry_test

import (
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/telemetry"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// scrape has every metric recorded once, and reads them as Prometheus would.
func scrape(t *testing.T) string {
	t.Helper()
	m := telemetry.New("v1", func() int { return 3 }, func() int { return 2 })
	m.WatchPlugins(func() map[string]bool { return map[string]bool{"aws": true, "gcp": false} })
	b := budget.New(budget.Limits{Node: 100})
	b.Adopt(budget.Owner{Namespace: "a"}, budget.Contents, 7)
	m.WatchBudget(b.Usage)
	denied := fault.New(fault.Denied, "no")
	for _, kind := range []volume.Kind{volume.Published, volume.Refreshed, volume.Unpublished, volume.Released, volume.SetAside} {
		m.Observe(volume.Outcome{Kind: kind, Provider: "vault", Changed: true, Took: time.Second, AsOf: time.Now()})
		m.Observe(volume.Outcome{Kind: kind, Provider: "vault", Err: denied})
	}
	m.AuditWritten()
	m.AuditWritten()
	m.AuditLost()
	m.AuditFailed()
	m.ObserveCall("/csi.v1.Node/NodePublishVolume", codes.OK, time.Millisecond)
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
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
		`rotation_reconcile_duration_sec_count{os_type="linux"} 2`,
		`mayfly_last_good_total{provider="vault"} 1`,
		`mayfly_rotations_total{provider="vault"} 1`,
		`mayfly_releases_total{provider="vault",result="ok"} 1`,
		`mayfly_releases_total{provider="vault",result="given_up"} 1`,
		`mayfly_audit_lines_total 2`, `mayfly_audit_lost_lines_total 1`, `mayfly_audit_write_errors_total 1`,
		`mayfly_records_set_aside_total 2`,
		`mayfly_provider_plugin_up{provider="aws"} 1`, `mayfly_provider_plugin_up{provider="gcp"} 0`,
		`mayfly_grpc_call_duration_seconds_count{code="OK",method="NodePublishVolume"} 1`,
		`mayfly_memory_budget_bytes{kind="contents"} 7`, `mayfly_memory_budget_bytes{kind="records"} 0`, `mayfly_memory_budget_limit_bytes 100`,
		`mayfly_volumes 3`, `mayfly_volumes_failing 2`, `mayfly_build_info{version="v1"} 1`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no line %q", want)
		}
	}
}

// The documentation names the metrics that exist, and no others.
func TestDocumentedMetrics(t *testing.T) {
	doc, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|").FindAllStringSubmatch(string(doc), -1) {
		documented[m[1]] = true
	}
	found := 0
	for _, m := range regexp.MustCompile("(?m)^# TYPE ([a-z_]+) ").FindAllStringSubmatch(scrape(t), -1) {
		name := m[1]
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		found++
		if !documented[name] {
			t.Errorf("docs/operating.md does not name %s", name)
		}
	}
	if found != len(documented) {
		t.Errorf("docs/operating.md names %d metrics, there are %d", len(documented), found)
	}
}
