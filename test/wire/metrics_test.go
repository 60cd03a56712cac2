package wire

import (
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/endpoint"
	"github.com/mayfly-csi/mayfly/pkg/volume"
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
	request, err := http.NewRequestWithContext(r.t.Context(), http.MethodGet, "http://"+r.health+"/metrics", nil)
	testkit.Must(r.t, err)
	request.Header.Set("Accept", "application/openmetrics-text; version=1.0.0")
	response, err := http.DefaultClient.Do(request)
	testkit.Must(r.t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	testkit.Must(r.t, err)
	entries, err := r.vault.AuditEntries(r.t.Context())
	testkit.Must(r.t, err)
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
