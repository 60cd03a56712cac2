// Package apiserver is an API server for one driver: it has SecretProviderClasses, which can be
// edited, and stores the driver's pod statuses, Events and Secrets. It counts requests and bytes.
package apiserver

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
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
	firstVersion = 2000 // of the list of classes
	watchForever = 10 * time.Minute
)

// Server serves SecretProviderClass (get, list and watch, with field selectors) and the driver's
// writes, over TLS and HTTP/2. It counts requests by resource and verb.
type Server struct {
	server *httptest.Server
	// Written has the driver's objects.
	Written Objects

	mu      sync.Mutex
	keys    []Key // in the API server's order
	classes map[Key]stored
	version int
	changed chan struct{} // closed with each edit, and made again
	counts  map[string]int
}

// Key names a class.
type Key struct{ Namespace, Name string }

// stored is a class as JSON, the version that created it, and the one that last changed it.
type stored struct {
	data          []byte
	made, changed int
}

// Start serves classes, each as JSON.
func Start(classes map[Key][]byte) *Server {
	a := &Server{classes: map[Key]stored{}, counts: map[string]int{}, version: firstVersion, changed: make(chan struct{})}
	a.Written.objects = map[string]map[string]any{}
	a.Written.sizes = map[string]*Size{}
	a.Written.writes = map[string]int{}
	for key, data := range classes {
		a.classes[key] = stored{data, firstVersion, firstVersion}
	}
	a.sort()
	a.server = httptest.NewUnstartedServer(a.routes())
	a.server.EnableHTTP2 = true
	a.server.StartTLS()
	return a
}

func (a *Server) sort() {
	a.keys = slices.SortedFunc(maps.Keys(a.classes), func(x, y Key) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
}

// Put creates a class or edits it, and notifies watchers.
func (a *Server) Put(class *v1.SecretProviderClass) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := Key{class.Namespace, class.Name}
	edited := class.DeepCopy()
	edited.ResourceVersion = strconv.Itoa(a.version + 1)
	data, err := json.Marshal(edited)
	if err != nil {
		return fmt.Errorf("encoding class %s/%s: %w", key.Namespace, key.Name, err)
	}
	a.version++
	old, known := a.classes[key]
	if !known {
		old.made = a.version
	}
	a.classes[key] = stored{data, old.made, a.version}
	if !known {
		a.sort()
	}
	close(a.changed)
	a.changed = make(chan struct{})
	return nil
}

// Close stops the server and its watches.
func (a *Server) Close() {
	a.server.CloseClientConnections() // a watch would hold Close
	a.server.Close()
}

// Handler is what the server answers with.
func (a *Server) Handler() http.Handler { return a.server.Config.Handler }

func (a *Server) routes() http.Handler {
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
	mux.HandleFunc("PATCH /api/v1/namespaces/{namespace}/secrets/{name}", a.applySecret)
	handle("list", "status", "GET "+group+"/secretproviderclasspodstatuses", a.Written.list)
	for collection, noun := range map[string]string{statuses: "status", events: "event"} {
		handle("create", noun, "POST "+collection, a.Written.create)
		handle("get", noun, "GET "+collection+"/{name}", a.Written.get)
		handle("update", noun, "PUT "+collection+"/{name}", a.Written.update)
		handle("delete", noun, "DELETE "+collection+"/{name}", a.Written.remove)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.count(r.Method + " " + r.URL.Path)
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, r.URL.Path)
	})
	return mux
}

func (a *Server) count(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[what]++
}

// Requests is how many there were so far, by object and verb.
func (a *Server) Requests() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.counts)
}

// Kubeconfig is how the driver finds this server and trusts it.
func (a *Server) Kubeconfig() []byte {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.server.Certificate().Raw})
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: test, user: {token: test}}]
contexts: [{name: test, context: {cluster: test, user: test}}]
current-context: test
`, a.server.URL, base64.StdEncoding.EncodeToString(ca))
}

func (a *Server) get(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	class, ok := a.classes[Key{r.PathValue("namespace"), r.PathValue("name")}]
	a.mu.Unlock()
	if !ok {
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, r.URL.Path)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(class.data)
}

func (a *Server) listOrWatch(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	w.Header().Set("Content-Type", "application/json")
	s := selection{r.PathValue("namespace"), strings.TrimPrefix(q.Get("fieldSelector"), "metadata.name=")}
	if q.Get("watch") == "true" || q.Get("watch") == "1" {
		a.count("class watch")
		a.watch(w, r, s)
		return
	}
	a.count("class list")
	found, version, _ := a.selected(s, 0)
	fmt.Fprintf(w, `{"kind":"SecretProviderClassList","apiVersion":%q,"metadata":{"resourceVersion":"%d"},"items":[`, v1.GroupVersion().String(), version)
	for i, class := range found {
		if i > 0 {
			_, _ = w.Write([]byte(","))
		}
		_, _ = w.Write(class.data)
	}
	_, _ = w.Write([]byte("]}"))
}

// selection says which classes a request concerns; empty means all.
type selection struct{ namespace, name string }

// selected returns the classes that changed after a version, the version of the whole, and a
// channel that is closed when there is a newer one.
func (a *Server) selected(s selection, after int) (found []stored, version int, newer <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, key := range a.keys {
		class := a.classes[key]
		if (s.namespace == "" || key.Namespace == s.namespace) && (s.name == "" || key.Name == s.name) && class.changed > after {
			found = append(found, class)
		}
	}
	return found, a.version, a.changed
}

// watch sends the initial list of a watch-list, and then the edits.
func (a *Server) watch(w http.ResponseWriter, r *http.Request, s selection) {
	flusher := http.NewResponseController(w)
	q := r.URL.Query()
	since, err := strconv.Atoi(q.Get("resourceVersion"))
	initial := q.Get("sendInitialEvents") == "true"
	if err != nil && !initial {
		_, since, _ = a.selected(s, 0)
	}
	lasts := watchForever
	if seconds, err := strconv.Atoi(q.Get("timeoutSeconds")); err == nil {
		lasts = time.Duration(seconds) * time.Second
	}
	timer := time.NewTimer(lasts)
	defer timer.Stop()
	for {
		found, version, newer := a.selected(s, since)
		for _, class := range found {
			kind := "MODIFIED"
			if class.made > since || initial {
				kind = "ADDED"
			}
			fmt.Fprintf(w, `{"type":%q,"object":%s}`+"\n", kind, class.data)
		}
		if initial {
			fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"kind":"SecretProviderClass","apiVersion":%q,"metadata":{"resourceVersion":"%d","annotations":{"k8s.io/initial-events-end":"true"}}}}`+"\n",
				v1.GroupVersion().String(), version)
			initial = false
		}
		since = version
		_ = flusher.Flush()
		select {
		case <-r.Context().Done():
			return
		case <-timer.C:
			return
		case <-newer:
		}
	}
}
