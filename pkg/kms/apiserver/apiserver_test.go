package apiserver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/kms/scan"
	"github.com/mayfly-csi/mayfly/test/pki"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

const leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases"

func TestParseSeen(t *testing.T) {
	text := "# HELP x\nother_metric{a=\"b\"} 1\n" + status("mayfly", hashOld, "s", 1.7e9) + status("mayfly", hashNew, "s", 1.8e9) +
		status("other", "sha256:other", "s", 1.9e9) + status(`a"}\`, "sha256:odd", "s", 1)
	for provider, want := range map[string]string{"mayfly": hashNew, "other": "sha256:other", "none": "", `a"}\`: "sha256:odd"} {
		testkit.Equal(t, "the key id's hash for "+provider, testkit.Value(parseSeen([]byte(text), provider))(t).KeyIDHash, want)
	}
	for _, bad := range []string{"", `a="b`, `a="b"`, `a="b"} x`, "a=b} 1"} {
		if seen, err := parseSeen([]byte(metricStatus+"{provider_name=\"mayfly\","+bad+"\n"), "mayfly"); err == nil {
			t.Errorf("%q gave %+v", bad, seen)
		}
	}
}

func FuzzParseSeen(f *testing.F) {
	f.Add(status("mayfly", hashNew, "s", 1.5))
	f.Add(metricStatus + `{provider_name="mayfly",}`)
	f.Fuzz(func(_ *testing.T, text string) { _, _ = parseSeen([]byte(text), "mayfly") })
}

// TestWriters: a finding names each reason why an API server does not write with the key, also if
// it is not among those that were asked.
func TestWriters(t *testing.T) {
	const idHash = "sha256:7a0c8e2e0b1a0e0c2f3ac2f9b7d1f1d3"
	for name, tc := range map[string]struct {
		change func(f *fake)
		want   string // of Behind
	}{
		"all in order":          {func(*fake) {}, ""},
		"under the old key":     {func(f *fake) { f.set("GET", "/metrics", status("mayfly", hashOld, idHash, 1)) }, "writes under another key id, sha256:old"},
		"no such provider":      {func(f *fake) { f.set("GET", "/metrics", "") }, "has no key id of a provider of this name"},
		"no right to metrics":   {func(f *fake) { f.statuses["GET /metrics"] = 403 }, "cannot be asked"},
		"not ready":             {func(f *fake) { f.statuses["GET /readyz/kms-providers"] = 500 }, "is not ready"},
		"an old API server":     {func(f *fake) { delete(f.answers, "GET /readyz/kms-providers"); f.set("GET", "/readyz", "ok") }, ""},
		"neither of the checks": {func(f *fake) { delete(f.answers, "GET /readyz/kms-providers") }, "is not ready"},
		"another one lives": {func(f *fake) {
			f.set("GET", leases, `{"items":[`+lease("apiserver-b", "host-b", time.Now())+`]}`)
		}, "the API server of host host-b is not among those asked"},
		"another one has died": {func(f *fake) {
			f.set("GET", leases, `{"items":[`+lease("apiserver-b", "host-b", time.Now().Add(-5*time.Minute))+`]}`)
		}, ""},
		"no right to leases": {func(f *fake) { f.statuses["GET "+leases] = 403 }, "it is not known whether these are all API servers"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.set("GET", "/metrics", status("mayfly", hashNew, idHash, 2)+status("mayfly", hashOld, idHash, 1))
			f.set("GET", "/readyz/kms-providers", "ok")
			f.set("GET", leases, `{"items":[]}`)
			tc.change(f)
			w := testkit.Value(f.cluster(f.URL).Writers(t.Context(), "mayfly"))(t)
			got := strings.Join(w.Behind(hashNew), "; ")
			if tc.want == "" && got != "" || !strings.Contains(got, tc.want) {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

// TestIdentity: an API server's Lease and its metrics have the same name.
func TestIdentity(t *testing.T) {
	f := newFake(t)
	f.set("GET", leases, `{"items":[`+lease("apiserver-a", "host-a", time.Now())+`]}`)
	all, err := f.cluster().Identities(t.Context(), time.Now())
	// printf %s apiserver-a | sha256sum
	want := Identity{"sha256:b5b662adf0e40b9253722f985e321a40f8f9592881365a3ffc91fb56c54da2dc", "host-a"}
	if err != nil || len(all) != 1 || all[0] != want {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestServers(t *testing.T) {
	const path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
	f := newFake(t)
	f.set("GET", path, `{"items":[{"ports":[{"name":"https","port":6443}],"endpoints":[{"addresses":["10.0.0.2"]},{"addresses":["10.0.0.1","fd00::1"]}]}]}`)
	urls := func(c *Cluster) string {
		servers := testkit.Value(c.Servers(t.Context()))(t)
		var all []string
		for _, s := range servers {
			all = append(all, s.URL)
		}
		return strings.Join(all, " ")
	}
	testkit.Equal(t, "servers", urls(f.cluster()), "https://10.0.0.1:6443 https://10.0.0.2:6443 https://[fd00::1]:6443")
	testkit.Equal(t, "servers that are named", urls(f.cluster("https://a:1", "https://b:2/")), "https://a:1 https://b:2")
	f.set("GET", path, `{"items":[]}`)
	testkit.Equal(t, "servers without endpoints", urls(f.cluster()), f.URL)
	f.statuses["GET "+path] = 403
	if _, err := f.cluster().Servers(t.Context()); !Refused(err, 403) {
		t.Error(err)
	}
}

func TestKinds(t *testing.T) {
	f := newFake(t)
	f.set("GET", "/apis", `{"groups":[{"name":"example.com","preferredVersion":{"version":"v2"}},{"name":"metrics.k8s.io","preferredVersion":{"version":"v1"}},{"name":"events.k8s.io","preferredVersion":{"version":"v1"}}]}`)
	f.set("GET", "/api/v1", `{"resources":[{"name":"secrets","kind":"Secret","namespaced":true,"verbs":["list","patch"]},{"name":"pods/status","verbs":["list","patch"]},{"name":"bindings","verbs":["create"]},{"name":"nodes","kind":"Node","verbs":["list","patch"]}]}`)
	f.set("GET", "/apis/example.com/v2", `{"resources":[{"name":"widgets","kind":"Widget","namespaced":true,"verbs":["list","patch"]}]}`)
	f.set("GET", "/apis/metrics.k8s.io/v1", `{"resources":[{"name":"nodes","verbs":["list"]}]}`)
	all := func(scan.Resource) bool { return true }
	for patterns, want := range map[string]string{
		"secrets":             "/api/v1/namespaces/n/secrets/x",
		"widgets.example.com": "/apis/example.com/v2/namespaces/n/widgets/x",
		"*.":                  "/api/v1/nodes/x /api/v1/namespaces/n/secrets/x",
		"*.*":                 "/api/v1/nodes/x /api/v1/namespaces/n/secrets/x /apis/example.com/v2/namespaces/n/widgets/x",
		"gadgets.example.com": "",
	} {
		kinds := testkit.Value(f.cluster().Kinds(t.Context(), strings.Fields(patterns), all))(t)
		var got []string
		for _, k := range kinds {
			got = append(got, k.object("n", "x"))
		}
		testkit.Equal(t, patterns, strings.Join(got, " "), want)
	}
	// An aggregated API that is away does not matter to others.
	f.statuses["GET /apis/metrics.k8s.io/v1"] = 503
	if _, err := f.cluster().Kinds(t.Context(), scan.Selection{"secrets", "*.example.com"}, all); err != nil {
		t.Error(err)
	}
}

func secrets() Kind {
	return Kind{Resource: scan.Resource{Name: "secrets"}, Version: "v1", Kind: "Secret", Namespaced: true}
}

func page1(names ...string) string {
	var items []string
	for _, name := range names {
		items = append(items, fmt.Sprintf(`{"metadata":{"namespace":"n","name":%q,"resourceVersion":"7"}}`, name))
	}
	return strings.Join(items, ",")
}

func TestRewrite(t *testing.T) {
	const list, object = "/api/v1/secrets", "/api/v1/namespaces/n/secrets/"
	f := newFake(t)
	f.set("GET", list+"?continue=", `{"metadata":{"continue":"two"},"items":[`+page1("a", "b")+`]}`)
	f.set("GET", list+"?continue=two", `{"metadata":{"continue":"three"},"items":[`+page1("c", "d", "e")+`]}`)
	f.set("GET", list+"?continue=three", `{"items":[]}`)
	f.patches[object+"b"] = []int{http.StatusConflict}
	f.patches[object+"c"] = []int{http.StatusNotFound}
	f.patches[object+"d"] = []int{http.StatusForbidden}
	f.patches[object+"e"] = []int{http.StatusTooManyRequests, http.StatusOK}
	done, err := f.cluster().Rewrite(t.Context(), secrets(), 1000, func(Rewritten) {})
	if err != nil || done.Patched != 2 || done.Changed != 2 || done.Refused != 1 || len(done.Errors) != 1 || !strings.Contains(done.Errors[0].Error(), "n/d: PATCH") {
		t.Errorf("%+v, %v", done, err)
	}
	testkit.Equal(t, "patches of e", f.patched[object+"e"], 2)
}

// TestRewriteOfAnOldList: a list whose revision etcd has compacted continues from the same place.
func TestRewriteOfAnOldList(t *testing.T) {
	f := newFake(t)
	handler := f.Config.Handler
	f.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("continue") == "old" {
			w.WriteHeader(http.StatusGone)
			fmt.Fprint(w, `{"message":"too old","metadata":{"continue":"inconsistent"}}`)
			return
		}
		handler.ServeHTTP(w, r)
	})
	f.set("GET", "/api/v1/secrets?continue=", `{"metadata":{"continue":"old"},"items":[`+page1("a")+`]}`)
	f.set("GET", "/api/v1/secrets?continue=inconsistent", `{"items":[`+page1("b")+`]}`)
	done, err := f.cluster().Rewrite(t.Context(), secrets(), 1000, func(Rewritten) {})
	if err != nil || done.Patched != 2 {
		t.Errorf("%+v, %v", done, err)
	}
}

func TestMigrate(t *testing.T) {
	const base = "/apis/storagemigration.k8s.io/v1/storageversionmigrations"
	for name, tc := range map[string]struct {
		status string
		want   string
	}{
		"succeeded":    {`{"resourceVersion":"5","conditions":[{"type":"Running","status":"False"},{"type":"Succeeded","status":"True"}]}`, ""},
		"failed":       {`{"conditions":[{"type":"Failed","status":"True","reason":"Why","message":"12/70 not yet migrated"}]}`, "failed: Why 12/70 not yet migrated"},
		"not taken up": {`{}`, "no controller has taken it up"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.set("POST", base, `{"metadata":{"name":"m"}}`)
			f.set("GET", base+"/m", `{"metadata":{"name":"m"},"status":`+tc.status+`}`)
			f.set("DELETE", base+"/m", `{}`)
			c := f.cluster()
			c.takenUp = 0
			err := c.Migrate(t.Context(), "v1", secrets(), func(string) {})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("%v, want %q", err, tc.want)
			}
			testkit.Equal(t, "the error is ErrNotTakenUp", errors.Is(err, ErrNotTakenUp), name == "not taken up")
			testkit.Equal(t, "deleted", slices.Contains(f.asked, "DELETE "+base+"/m"), name != "failed")
		})
	}
}

// TestWake: a migration that waits for the controller's cache gets one change of
// the resource, and no more.
func TestWake(t *testing.T) {
	const base = "/apis/storagemigration.k8s.io/v1/storageversionmigrations"
	f := newFake(t)
	f.set("GET", base+"/m", `{"status":{"resourceVersion":"5","conditions":[{"type":"Running","status":"True","message":"waiting"}]}}`)
	f.set("GET", "/api/v1/secrets", `{"items":[`+page1("a", "b")+`]}`)
	f.patches["/api/v1/namespaces/n/secrets/a"] = []int{http.StatusForbidden}
	var said []string
	w := watcher{Cluster: f.cluster(), kind: secrets(), path: base + "/m", name: "m", progress: func(s string) { said = append(said, s) }, began: time.Now()}
	for range 3 {
		if over, err := w.look(t.Context()); over || err != nil {
			t.Fatal(over, err)
		}
	}
	if f.patched["/api/v1/namespaces/n/secrets/b"] != 1 || !slices.Equal(said, []string{"waiting"}) {
		t.Errorf("patched %v, said %q", f.patched, said)
	}
}

func TestMigrationVersion(t *testing.T) {
	for answer, want := range map[string]string{
		`{"versions":[{"version":"v1beta1"},{"version":"v1"}]}`: "v1",
		`{"versions":[{"version":"v1beta1"}]}`:                  "v1beta1",
		`{"versions":[{"version":"v1alpha1"}]}`:                 "",
		"":                                                      "",
	} {
		f := newFake(t)
		if answer != "" {
			f.set("GET", "/apis/storagemigration.k8s.io", answer)
		}
		if got, err := f.cluster().MigrationVersion(t.Context()); got != want || err != nil {
			t.Errorf("%s: %q, %v", answer, got, err)
		}
	}
}

func TestEndedContext(t *testing.T) {
	f := newFake(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	testkit.Error(f.cluster().MigrationVersion(ctx))(t, "interrupted")
}

func writeFile(t *testing.T, path, text string) string {
	t.Helper()
	testkit.Must(t, os.WriteFile(path, []byte(text), 0o700))
	return path
}

func config(cluster, user string) string {
	return fmt.Sprintf("{current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: {server: https://a:6443%s}}], users: [{name: u, user: {%s}}]}", cluster, user)
}

func TestLoadAccess(t *testing.T) {
	ca, caCert, err := pki.NewAuthority("ca")
	testkit.Must(t, err)
	pair := testkit.Value(ca.Issue(pki.Identity{Name: "admin"}))(t)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "ca.crt"), string(caCert))
	writeFile(t, filepath.Join(dir, "token"), "from-a-file\n")
	helper := writeFile(t, filepath.Join(dir, "helper"), "#!/bin/sh\necho '{\"status\":{\"token\":\"from-'$WHO'\"}}'\n")
	data := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	for name, tc := range map[string]struct{ text, token, want string }{
		"a token":         {config("", "token: abc"), "abc", ""},
		"a token's file":  {config(", certificate-authority: ca.crt", "tokenFile: token"), "from-a-file", ""},
		"a certificate":   {config(", certificate-authority-data: "+data(caCert), "client-certificate-data: "+data(pair.Cert)+", client-key-data: "+data(pair.Key)), "", ""},
		"exec":            {config("", "exec: {command: "+helper+", apiVersion: client.authentication.k8s.io/v1, env: [{name: WHO, value: exec}]}"), "from-exec", ""},
		"exec fails":      {config("", "exec: {command: /absent}"), "", "exec: running /absent"},
		"a lone key":      {config("", "client-key-data: "+data(pair.Key)), "", "client-certificate and client-key"},
		"an absent file":  {config(", certificate-authority: absent.crt", ""), "", "certificate-authority: open"},
		"no authority":    {config(", certificate-authority: token", ""), "", "there is no certificate in it"},
		"a password":      {config("", "username: a"), "", "username and auth-provider are not known here"},
		"no such context": {strings.Replace(config("", ""), "current-context: a", "current-context: b", 1), "", `has no context "b"`},
		"no such cluster": {strings.Replace(config("", ""), "cluster: c", "cluster: d", 1), "", `has no cluster "d"`},
		"not YAML":        {"{", "", "it is not YAML of a kubeconfig"},
	} {
		t.Run(name, func(t *testing.T) {
			file := writeFile(t, filepath.Join(dir, "kubeconfig"), tc.text)
			a, err := loadAccess(t.Context(), file, "", "")
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Fatalf("%v, want %q", err, tc.want)
			}
			if err == nil && (a.token != tc.token || a.server != "https://a:6443") {
				t.Errorf("%+v", a)
			}
		})
	}
}

// TestLoadAccessOfAList: of $KUBECONFIG the first file that has a name counts, and
// one that is absent does not matter.
func TestLoadAccessOfAList(t *testing.T) {
	dir := t.TempDir()
	first := writeFile(t, filepath.Join(dir, "1"), "{contexts: [{name: a, context: {cluster: c, user: u}}], users: [{name: u, user: {token: first}}]}")
	second := writeFile(t, filepath.Join(dir, "2"), config("", "token: second"))
	a, err := loadAccess(t.Context(), "", strings.Join([]string{first, filepath.Join(dir, "absent"), second}, ":"), "")
	if err != nil || a.token != "first" || a.server != "https://a:6443" {
		t.Errorf("%+v, %v", a, err)
	}
	if _, err := loadAccess(t.Context(), filepath.Join(dir, "absent"), second, ""); err == nil {
		t.Error("an absent file was taken")
	}
}

// fake is an API server with a few objects and the requests of this package.
type fake struct {
	*httptest.Server
	t *testing.T

	mu       sync.Mutex
	answers  map[string]string // by path, without the query
	statuses map[string]int
	asked    []string
	// patches are the answers to a patch of an object, in turn.
	patches map[string][]int
	patched map[string]int
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, answers: map[string]string{}, statuses: map[string]int{}, patches: map[string][]int{}, patched: map[string]int{}}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r.Method+" "+r.URL.RequestURI())
	if r.Method == http.MethodPatch {
		f.patch(w, r)
		return
	}
	key := r.Method + " " + r.URL.Path
	answer, ok := f.answers[key+"?continue="+r.URL.Query().Get("continue")]
	if !ok {
		answer, ok = f.answers[key]
	}
	if status := f.statuses[key]; status != 0 {
		w.WriteHeader(status)
	} else if !ok {
		w.WriteHeader(http.StatusNotFound)
		answer = `{"kind":"Status","message":"there is no such thing"}`
	}
	_, _ = io.WriteString(w, answer)
}

// patch requires a patch that changes nothing.
func (f *fake) patch(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Metadata map[string]string `json:"metadata"`
		Kind     string            `json:"kind"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || len(body.Metadata) != 1 || body.Metadata["resourceVersion"] == "" || body.Kind != "Secret" {
		f.t.Errorf("patch %+v, %v", body, err)
	}
	testkit.Has(f.t, r.Header.Get("Accept"), "PartialObjectMetadata") // not the whole object
	f.patched[r.URL.Path]++
	status := http.StatusOK
	if left := f.patches[r.URL.Path]; len(left) > 0 {
		status, f.patches[r.URL.Path] = left[0], left[1:]
	}
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"message":"patch answered %d","metadata":{"resourceVersion":"100"}}`, status)
}

func (f *fake) set(method, path, answer string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[method+" "+path] = answer
}

// cluster connects by a kubeconfig.
func (f *fake) cluster(servers ...string) *Cluster {
	f.t.Helper()
	file := filepath.Join(f.t.TempDir(), "kubeconfig")
	text := fmt.Sprintf("{current-context: a, contexts: [{name: a, context: {cluster: c, user: u}}], clusters: [{name: c, cluster: {server: %q}}], users: [{name: u, user: {token: t}}]}", f.URL)
	testkit.Must(f.t, os.WriteFile(file, []byte(text), 0o600))
	return testkit.Value(Connect(f.t.Context(), Config{Kubeconfig: file, Servers: servers}))(f.t)
}

const (
	hashOld = "sha256:old"
	hashNew = "sha256:new"
)

func status(provider, keyHash, server string, at float64) string {
	return fmt.Sprintf("%s{apiserver_id_hash=%q,key_id_hash=%q,provider_name=%q} %g\n", metricStatus, server, keyHash, provider, at)
}

func lease(name, host string, renewed time.Time) string {
	return fmt.Sprintf(`{"metadata":{"name":%q,"labels":{"kubernetes.io/hostname":%q}},"spec":{"renewTime":%q}}`, name, host, renewed.UTC().Format(time.RFC3339Nano))
}
