package apiserver

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

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
	if !strings.Contains(r.Header.Get("Accept"), "PartialObjectMetadata") {
		f.t.Error("the whole object is asked for")
	}
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
	c, err := Connect(f.t.Context(), Config{Kubeconfig: file, Servers: servers})
	testkit.Must(f.t, err)
	return c
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
