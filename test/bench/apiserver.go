package main

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

const (
	listVersion  = "2000"
	watchForever = 10 * time.Minute
	perNamespace = 10 // unrelated classes
)

// apiServer plays the API server for SecretProviderClass (get, list and watch,
// with field selectors) and for what the driver writes, over TLS and HTTP/2. It
// counts requests by what they are about and by verb.
type apiServer struct {
	server *httptest.Server
	keys   []objectKey // in the API server's order
	json   map[objectKey][]byte
	// written is what the driver creates.
	written objectStore

	mu     sync.Mutex
	counts map[string]int
}

type objectKey struct{ namespace, name string }

// startAPI serves this node's classes among others that it has no use for.
func startAPI(ours map[string][]byte, unrelated int) *apiServer {
	a := &apiServer{json: map[objectKey][]byte{}, counts: map[string]int{}, written: objectStore{objects: map[string]map[string]any{}}}
	for name, data := range ours {
		a.json[objectKey{namespace, name}] = data
	}
	for i := range unrelated {
		key := objectKey{fmt.Sprintf("team-%04d", i/perNamespace), fmt.Sprintf("app-%05d", i)}
		a.json[key] = manifest(key.namespace, key.name, "vault", vaultParameters(key.name, "https://vault.example:8200", ""))
	}
	a.keys = slices.SortedFunc(maps.Keys(a.json), func(x, y objectKey) int {
		return cmp.Or(cmp.Compare(x.namespace, y.namespace), cmp.Compare(x.name, y.name))
	})
	a.server = httptest.NewUnstartedServer(a.routes())
	a.server.EnableHTTP2 = true
	a.server.StartTLS()
	return a
}

func (a *apiServer) close() {
	a.server.CloseClientConnections() // a watch would hold Close
	a.server.Close()
}

func (a *apiServer) routes() http.Handler {
	const (
		group    = "/apis/" + v1.GroupName + "/v1"
		classes  = "/secretproviderclasses"
		statuses = group + "/namespaces/{namespace}/secretproviderclasspodstatuses"
		events   = "/api/v1/namespaces/{namespace}/events"
	)
	mux := http.NewServeMux()
	handle := func(verb, noun, pattern string, h http.HandlerFunc) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			a.count(noun + " " + verb)
			h(w, r)
		})
	}
	mux.HandleFunc("GET "+group+classes, a.listOrWatch)
	mux.HandleFunc("GET "+group+"/namespaces/{namespace}"+classes, a.listOrWatch)
	handle("get", "class", "GET "+group+"/namespaces/{namespace}"+classes+"/{name}", a.get)
	handle("list", "status", "GET "+group+"/secretproviderclasspodstatuses", a.written.list)
	for collection, noun := range map[string]string{statuses: "status", events: "event"} {
		handle("create", noun, "POST "+collection, a.written.create)
		handle("get", noun, "GET "+collection+"/{name}", a.written.get)
		handle("update", noun, "PUT "+collection+"/{name}", a.written.update)
		handle("delete", noun, "DELETE "+collection+"/{name}", a.written.remove)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.count(r.Method + " " + r.URL.Path)
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, r.URL.Path)
	})
	return mux
}

func (a *apiServer) count(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[what]++
}

// requests is how many there were so far, by object and verb.
func (a *apiServer) requests() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.counts)
}

// kubeconfig is how the driver finds this server and trusts it.
func (a *apiServer) kubeconfig() []byte {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.server.Certificate().Raw})
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: bench, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: bench, user: {token: bench}}]
contexts: [{name: bench, context: {cluster: bench, user: bench}}]
current-context: bench
`, a.server.URL, base64.StdEncoding.EncodeToString(ca))
}

func (a *apiServer) get(w http.ResponseWriter, r *http.Request) {
	data, ok := a.json[objectKey{r.PathValue("namespace"), r.PathValue("name")}]
	if !ok {
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, r.URL.Path)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data)
}

func (a *apiServer) listOrWatch(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	found := a.selected(r.PathValue("namespace"), q.Get("fieldSelector"))
	w.Header().Set("Content-Type", "application/json")
	if q.Get("watch") == "true" || q.Get("watch") == "1" {
		a.count("class watch")
		a.watch(w, r, found)
		return
	}
	a.count("class list")
	fmt.Fprintf(w, `{"kind":"SecretProviderClassList","apiVersion":%q,"metadata":{"resourceVersion":%q},"items":[%s]}`,
		v1.GroupVersion().String(), listVersion, bytes.Join(found, []byte(",")))
}

func (a *apiServer) selected(namespace, selector string) (found [][]byte) {
	name := strings.TrimPrefix(selector, "metadata.name=")
	for _, key := range a.keys {
		if (namespace == "" || key.namespace == namespace) && (selector == "" || key.name == name) {
			found = append(found, a.json[key])
		}
	}
	return found
}

// watch sends what a watch-list asks for, and then holds the stream: no class
// is edited here.
func (a *apiServer) watch(w http.ResponseWriter, r *http.Request, found [][]byte) {
	flusher := http.NewResponseController(w)
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		for _, data := range found {
			fmt.Fprintf(w, `{"type":"ADDED","object":%s}`+"\n", data)
		}
		fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"kind":"SecretProviderClass","apiVersion":%q,"metadata":{"resourceVersion":%q,"annotations":{"k8s.io/initial-events-end":"true"}}}}`+"\n",
			v1.GroupVersion().String(), listVersion)
	}
	_ = flusher.Flush()
	lasts := watchForever
	if seconds, err := strconv.Atoi(r.URL.Query().Get("timeoutSeconds")); err == nil {
		lasts = time.Duration(seconds) * time.Second
	}
	timer := time.NewTimer(lasts)
	defer timer.Stop()
	select {
	case <-r.Context().Done():
	case <-timer.C:
	}
}
