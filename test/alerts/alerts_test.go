package alerts

import (
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/pkg/telemetry"
	"github.com/mayfly-csi/mayfly/pkg/volume"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const rulesFile = "../../charts/mayfly/files/alerts.yaml"

type rule struct {
	Alert, Expr, For string
	Labels           map[string]string
	Annotations      map[string]string
}

func rules(t *testing.T) []rule {
	t.Helper()
	data := testkit.Value(os.ReadFile(rulesFile))(t)
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	if err := yaml.UnmarshalStrict(data, &file); err != nil || len(file.Groups) != 1 {
		t.Fatal(err)
	}
	return file.Groups[0].Rules
}

// series is a metric with its labels and its values, one a minute, in promtool's
// notation.
type series struct{ name, values string }

// fires are the series on which each alert fires, the labels that it then has beside its severity,
// and the value that its text quotes.
var fires = map[string]struct {
	series []series
	at     string
	labels map[string]string
	value  string
}{
	"MayflyDown":              {[]series{{`up{job="kube-system/mayfly", instance="n1"}`, "0x20"}}, "11m", map[string]string{"job": "kube-system/mayfly", "instance": "n1"}, ""},
	"MayflyNotScraped":        {[]series{{`up{job="kubelet", instance="n1"}`, "1x30"}}, "16m", nil, ""},
	"MayflyPodsMissing":       {[]series{{`kube_daemonset_status_number_unavailable{namespace="kube-system", daemonset="mayfly"}`, "2x40"}}, "31m", map[string]string{"namespace": "kube-system", "daemonset": "mayfly"}, "2"},
	"MayflyRestarts":          {[]series{{`process_start_time_seconds{job="kube-system/mayfly", instance="n1"}`, "1x5 2x5 _x3 3x5 4x5"}}, "21m", map[string]string{"job": "kube-system/mayfly", "instance": "n1"}, "3"},
	"MayflyMountsFail":        {[]series{{`node_publish_error_total{instance="n1", provider="vault", os_type="linux", error_type="Denied"}`, "0+1x30"}}, "15m", map[string]string{"instance": "n1", "provider": "vault", "error_type": "Denied"}, ""},
	"MayflyKubeletMountsFail": {[]series{{`csi_operations_seconds_count{instance="n1", driver_name="secrets-store.csi.k8s.io", method_name="/csi.v1.Node/NodePublishVolume", grpc_status_code="Unavailable"}`, "0+1x30"}}, "15m", map[string]string{"instance": "n1", "grpc_status_code": "Unavailable"}, ""},
	"MayflySecretsStale":      {[]series{{`mayfly_volumes_failing{instance="n1"}`, "3x30"}}, "16m", map[string]string{"instance": "n1"}, "3"},
	"MayflySecretsVeryStale":  {[]series{{`mayfly_failing_oldest_success_timestamp_seconds{instance="n1"}`, "0x120"}}, "80m", map[string]string{"instance": "n1"}, ""},
	"MayflyCredentialsEnd":    {[]series{{`mayfly_failing_next_expiry_timestamp_seconds{instance="n1"}`, "1200x30"}}, "16m", map[string]string{"instance": "n1"}, ""},
	"MayflyStoreCircuitOpen":  {[]series{{`mayfly_store_circuits_open{instance="n1", provider="vault"}`, "1x30"}}, "6m", map[string]string{"instance": "n1", "provider": "vault"}, ""},
	"MayflyStoreRateLimits":   {[]series{{`mayfly_store_requests_total{instance="n1", provider="vault", operation="read", code="429"}`, "0x5 1x10"}}, "7m", map[string]string{"instance": "n1", "provider": "vault"}, ""},
	"MayflyDenied":            {[]series{{`mayfly_store_requests_total{instance="n1", provider="vault", operation="login", code="403"}`, "0x5 1x10"}}, "7m", map[string]string{"instance": "n1", "provider": "vault", "operation": "login"}, ""},
	"MayflyPluginDown":        {[]series{{`mayfly_provider_plugin_up{instance="n1", provider="aws"}`, "0x30"}}, "6m", map[string]string{"instance": "n1", "provider": "aws"}, ""},
	"MayflyQueueLate":         {[]series{{`mayfly_queue_lateness_seconds{instance="n1", provider="vault"}`, "90x30"}}, "11m", map[string]string{"instance": "n1", "provider": "vault"}, ""},
	"MayflyMemoryNearlyFull": {[]series{{`mayfly_memory_budget_bytes{instance="n1", kind="contents"}`, "60x30"}, {`mayfly_memory_budget_bytes{instance="n1", kind="cache"}`, "35x30"},
		{`mayfly_memory_budget_limit_bytes{instance="n1"}`, "100x30"}}, "16m", map[string]string{"instance": "n1"}, ""},
	"MayflyAuditLinesLost":        {[]series{{`mayfly_audit_lost_lines_total{instance="n1"}`, "0x5 7x10"}}, "7m", map[string]string{"instance": "n1"}, ""},
	"MayflyAuditWritesFail":       {[]series{{`mayfly_audit_write_errors_total{instance="n1"}`, "0+1x30"}}, "12m", map[string]string{"instance": "n1"}, ""},
	"MayflyCredentialsNotRevoked": {[]series{{`mayfly_releases_total{instance="n1", provider="vault", result="given_up"}`, "0x5 1x10"}}, "7m", map[string]string{"instance": "n1", "provider": "vault"}, ""},
	"MayflyRecordsSetAside":       {[]series{{`mayfly_records_set_aside_total{instance="n1"}`, "0x90 _x2 1x40"}}, "100m", map[string]string{"instance": "n1"}, ""},
	"MayflyAPIServerFails": {[]series{{`mayfly_api_requests_total{instance="n1", verb="get", code="5xx"}`, "0+1x30"}, {`mayfly_api_requests_total{instance="n1", verb="get", code="2xx"}`, "0+5x30"}},
		"15m", map[string]string{"instance": "n1"}, ""},
	"MayflyVersionsDiffer": {[]series{{`mayfly_build_info{instance="n1", version="0.1.0"}`, "1x90"}, {`mayfly_build_info{instance="n2", version="0.2.0"}`, "1x90"}}, "61m", nil, ""},
}

// more are further series on which an alert fires, with the same labels and value.
var more = map[string]series{
	"MayflyRecordsSetAside": {`mayfly_records_set_aside_total{instance="n1"}`, "_x90 1x40"}, // the upgraded driver's pod has another address
}

// healthy are the series of a day on which no alert fires: one failure that recovers, credentials
// that are renewed shortly before they expire, a restart.
var healthy = []series{
	{`up{job="kube-system/mayfly", instance="n1"}`, "1x700 0x3 1x700"},
	{`node_publish_total{instance="n1", provider="vault", os_type="linux"}`, "0+1x1440"},
	{`node_publish_error_total{instance="n1", provider="vault", os_type="linux", error_type="Unavailable"}`, "0x700 2x740"},
	{`csi_operations_seconds_count{instance="n1", driver_name="secrets-store.csi.k8s.io", method_name="/csi.v1.Node/NodePublishVolume", grpc_status_code="OK"}`, "0+1x1440"},
	{`csi_operations_seconds_count{instance="n1", driver_name="another.csi.example.com", method_name="/csi.v1.Node/NodePublishVolume", grpc_status_code="Internal"}`, "0+1x1440"},
	{`mayfly_volumes_failing{instance="n1"}`, "0x300 2x4 0x1136"},
	{`mayfly_oldest_success_timestamp_seconds{instance="n1"}`, "0+60x1440"},
	{`mayfly_next_expiry_timestamp_seconds{instance="n1"}`, "300+60x1440"},
	{`mayfly_failing_oldest_success_timestamp_seconds{instance="n1"}`, "_x300 18000x4 _x1136"},
	{`mayfly_failing_next_expiry_timestamp_seconds{instance="n1"}`, "_x300 18300x4 _x1136"},
	{`process_start_time_seconds{job="kube-system/mayfly", instance="n1"}`, "1x700 _x3 2x10 3x800"},
	{`kube_daemonset_status_number_unavailable{namespace="kube-system", daemonset="mayfly"}`, "0x100 1x20 0x100 3x25 0x1195"},
	{`kube_daemonset_status_number_unavailable{namespace="kube-system", daemonset="another"}`, "1x1440"},
	{`mayfly_store_circuits_open{instance="n1", provider="vault"}`, "0x300 1x3 0x1137"},
	{`mayfly_store_requests_total{instance="n1", provider="vault", operation="read", code="2xx"}`, "0+10x1440"},
	{`mayfly_store_requests_total{instance="n1", provider="vault", operation="read", code="429"}`, "0x1440"},
	{`mayfly_store_requests_total{instance="n1", provider="vault", operation="read", code="403"}`, "0x1440"},
	{`mayfly_provider_plugin_up{instance="n1", provider="aws"}`, "1x500 0x2 1x938"},
	{`mayfly_queue_lateness_seconds{instance="n1", provider="vault"}`, "0x400 90x5 0x1035"},
	{`mayfly_memory_budget_bytes{instance="n1", kind="contents"}`, "60x1440"},
	{`mayfly_memory_budget_limit_bytes{instance="n1"}`, "100x1440"},
	{`mayfly_audit_lost_lines_total{instance="n1"}`, "0x1440"},
	{`mayfly_audit_write_errors_total{instance="n1"}`, "0x600 1x840"},
	{`mayfly_releases_total{instance="n1", provider="vault", result="given_up"}`, "0x1440"},
	{`mayfly_records_set_aside_total{instance="n1"}`, "0x1440"},
	{`mayfly_api_requests_total{instance="n1", verb="get", code="2xx"}`, "0+5x1440"},
	{`mayfly_api_requests_total{instance="n1", verb="get", code="5xx"}`, "0x500 5x940"},
	{`mayfly_build_info{instance="n1", version="0.1.0"}`, "1x700 _x740"},
	{`mayfly_build_info{instance="n1", version="0.2.0"}`, "_x690 1x750"},
}

// seldom are the series of a node with a volume that is read once a month, one with credentials of
// five minutes that are renewed, and one that has failed for half an hour and has neither.
var seldom = []series{
	{`mayfly_oldest_success_timestamp_seconds{instance="n1"}`, "0x200"},
	{`mayfly_next_expiry_timestamp_seconds{instance="n1"}`, "300+60x200"},
	{`mayfly_volumes_failing{instance="n1"}`, "0x100 1x30 0x70"},
	{`mayfly_failing_oldest_success_timestamp_seconds{instance="n1"}`, "_x100 6000x30 _x70"},
}

func promtool(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("needs promtool: apt-get install prometheus")
	}
	return path
}

func TestAlerts(t *testing.T) {
	tool := promtool(t)
	absolute := testkit.Value(filepath.Abs(rulesFile))(t)
	var b strings.Builder
	fmt.Fprintf(&b, "rule_files: [%q]\nevaluation_interval: 1m\ntests:\n", absolute)
	all := rules(t)
	for _, r := range all {
		f, ok := fires[r.Alert]
		if !ok {
			t.Errorf("no series on which %s fires", r.Alert)
			continue
		}
		cases := [][]series{f.series}
		if s, ok := more[r.Alert]; ok {
			cases = append(cases, []series{s})
		}
		words := func(text string) string {
			for name, value := range f.labels {
				text = strings.ReplaceAll(text, "{{ $labels."+name+" }}", value)
			}
			return strings.ReplaceAll(text, "{{ $value }}", f.value)
		}
		for _, list := range cases {
			writeSeries(&b, r.Alert+" fires", list)
			writeCheck(&b, r.Alert, f.at)
			fmt.Fprintf(&b, "        exp_alerts:\n        - exp_labels: {severity: %s", r.Labels["severity"])
			for name, value := range f.labels {
				fmt.Fprintf(&b, ", %s: %q", name, value)
			}
			b.WriteString("}\n          exp_annotations:\n")
			for name, text := range r.Annotations {
				fmt.Fprintf(&b, "            %s: %q\n", name, words(text))
			}
		}
	}
	for name := range fires {
		if !strings.Contains(b.String(), "alertname: "+name+"\n") {
			t.Errorf("there is no alert %s", name)
		}
	}
	writeSeries(&b, "a healthy day is silent", healthy)
	for _, r := range all {
		for _, at := range []string{"1h", "5h4m", "8h24m", "11h42m", "12h15m", "23h"} {
			writeCheck(&b, r.Alert, at)
		}
	}
	writeSeries(&b, "it is about the failing volume", seldom)
	for _, name := range []string{"MayflySecretsVeryStale", "MayflyCredentialsEnd"} {
		writeCheck(&b, name, "125m")
	}
	file := filepath.Join(t.TempDir(), "alerts.yaml")
	testkit.Must(t, os.WriteFile(file, []byte(b.String()), 0o600))
	for _, args := range [][]string{{"check", "rules", absolute}, {"test", "rules", file}} {
		if out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

func writeSeries(b *strings.Builder, name string, list []series) {
	fmt.Fprintf(b, "  - name: %q\n    interval: 1m\n    input_series:\n", name)
	for _, s := range list {
		fmt.Fprintf(b, "      - {series: %q, values: %q}\n", s.name, s.values)
	}
	b.WriteString("    alert_rule_test:\n")
}

func writeCheck(b *strings.Builder, alert, at string) {
	fmt.Fprintf(b, "      - eval_time: %s\n        alertname: %s\n", at, alert)
}

// TestMetricsExist: every metric of the rules is the driver's, or one of those that others export.
func TestMetricsExist(t *testing.T) {
	m := telemetry.New("v1", func() int { return 1 }, func() int { return 1 })
	m.KnowProvider("vault", "read")
	m.WatchPlugins(func() []string { return []string{"aws"} }, func() map[string]bool { return map[string]bool{"aws": true} })
	m.WatchBudget(budget.New(budget.Limits{Node: 1}).Usage)
	m.WatchStores(func() map[string]int { return map[string]int{"vault": 1} })
	m.WatchVolumes(func() []volume.Status {
		return []volume.Status{{State: volume.Failing, Progress: volume.Progress{RefreshedAt: time.Now(), Failures: 1, Ends: []time.Time{time.Now()}}}}
	}, func() volume.Overview { return volume.Overview{Queues: []schedule.Queue{{Store: "vault at x"}}} })
	m.CountAPIRequests(nil)
	m.ObserveRequest("vault", "read", 200, time.Second)
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	names := regexp.MustCompile(`\b(?:mayfly|node|rotation|csi|kube|process)_[a-z_]+`)
	for _, r := range rules(t) {
		for _, name := range names.FindAllString(r.Expr, -1) {
			switch name {
			case "csi_operations_seconds_count", "kube_daemonset_status_number_unavailable", "mayfly_api_requests_total": // kubelet's, kube-state-metrics'; made by the first request
				continue
			}
			if !strings.Contains(w.Body.String(), "\n# TYPE "+name+" ") {
				t.Errorf("%s: the driver has no metric %s", r.Alert, name)
			}
		}
	}
}

// TestRunbooks: each alert links to a section that says what it means, where to look and what to
// do, and the page has no others.
func TestRunbooks(t *testing.T) {
	page := testkit.Value(os.ReadFile("../../docs/runbooks.md"))(t)
	sections := map[string]string{}
	for _, s := range strings.Split(string(page), "\n## ")[1:] {
		name, text, _ := strings.Cut(s, "\n")
		sections[name] = text
	}
	for _, r := range rules(t) {
		text, ok := sections[r.Alert]
		delete(sections, r.Alert)
		if !ok || !strings.HasSuffix(r.Annotations["runbook_url"], "/docs/runbooks.md#"+strings.ToLower(r.Alert)) {
			t.Errorf("%s: no section, or runbook_url is %s", r.Alert, r.Annotations["runbook_url"])
		}
		for _, part := range []string{"**Meaning.** ", "**Look.** ", "**Do.** "} {
			if !strings.Contains(text, "\n"+part) {
				t.Errorf("the section of %s has no %s", r.Alert, part)
			}
		}
	}
	for name := range sections {
		t.Errorf("docs/runbooks.md has %s, which is no alert", name)
	}
}
