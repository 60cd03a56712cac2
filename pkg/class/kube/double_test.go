package kube_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// event is one line of a watch.
type event struct {
	Type    string                 `json:"type"`
	Object  v1.SecretProviderClass `json:"object"`
	version int
}

// request is one that the double was sent.
type request struct {
	watch   bool
	ref     class.Ref
	version string // to watch from
}

// double speaks HTTP/2 as an API server does that has one resource: lists and
// watches by name, resource versions, bookmarks, compaction.
type double struct {
	t       *testing.T
	server  *httptest.Server
	address string

	mu        sync.Mutex
	version   int
	compacted int // versions below it cannot be watched from
	objects   map[class.Ref]v1.SecretProviderClass
	events    []event
	requests  []request
	faults    []func(http.ResponseWriter, request, context.Context) bool
	more      chan struct{} // closed when anything changes
	stop      chan struct{} // closed when the server goes down
	cutNow    chan struct{} // closed to cut the open watches

	// opened is told of each watch that was opened, closed of each that ended.
	opened, closed chan request
}

func newDouble(t *testing.T) *double {
	d := &double{
		t: t, version: 100, objects: map[class.Ref]v1.SecretProviderClass{}, more: make(chan struct{}), cutNow: make(chan struct{}),
		opened: make(chan request, 1000), closed: make(chan request, 1000), address: "127.0.0.1:0",
	}
	d.up()
	t.Cleanup(d.down)
	return d
}

func (d *double) up() {
	l := testkit.Value(net.Listen("tcp", d.address))(d.t)
	d.address = l.Addr().String()
	d.stop = make(chan struct{})
	d.server = &httptest.Server{Listener: l, EnableHTTP2: true, Config: &http.Server{Handler: d}}
	d.server.StartTLS()
}

func (d *double) down() {
	select {
	case <-d.stop:
		return
	default:
	}
	close(d.stop)
	_ = d.server.Listener.Close()
	d.server.CloseClientConnections()
	d.server.Close()
}

func (d *double) config() *rest.Config {
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: d.server.Certificate().Raw})
	return &rest.Config{Host: "https://" + d.address, TLSClientConfig: rest.TLSClientConfig{CAData: ca}}
}

// put creates or edits a class; role tells one edit from the next.
func (d *double) put(ref class.Ref, role string) {
	d.edit(ref, func(o *v1.SecretProviderClass) { o.Spec.Parameters = map[string]string{"roleName": role} })
}

func (d *double) edit(ref class.Ref, edit func(*v1.SecretProviderClass)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	kind := "MODIFIED"
	o, ok := d.objects[ref]
	if !ok {
		kind = "ADDED"
		o = v1.SecretProviderClass{
			TypeMeta:   metav1.TypeMeta{APIVersion: v1.GroupVersion().String(), Kind: "SecretProviderClass"},
			ObjectMeta: metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name, UID: "uid"},
			Spec:       v1.SecretProviderClassSpec{Provider: "vault"},
		}
	}
	edit(&o)
	d.record(kind, &o)
	d.objects[ref] = o
}

func (d *double) remove(ref class.Ref) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.objects[ref]
	delete(d.objects, ref)
	d.record("DELETED", &o)
}

// bookmark tells every watch how far it has come, and gives that version.
func (d *double) bookmark(ref class.Ref) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := v1.SecretProviderClass{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1.GroupVersion().String(), Kind: "SecretProviderClass"},
		ObjectMeta: metav1.ObjectMeta{Namespace: ref.Namespace, Name: ref.Name},
	}
	d.record("BOOKMARK", &o)
	return o.ResourceVersion
}

func (d *double) record(kind string, o *v1.SecretProviderClass) {
	d.version++
	o.ResourceVersion = strconv.Itoa(d.version)
	d.events = append(d.events, event{kind, *o.DeepCopy(), d.version})
	close(d.more)
	d.more = make(chan struct{})
}

// compact makes every version so far too old to watch from.
func (d *double) compact() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.version++
	d.compacted, d.events = d.version, nil
}

// cut breaks the open watches off in the middle of a line.
func (d *double) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.cutNow)
	d.cutNow = make(chan struct{})
}

// fault has the next requests answered by f for as long as it returns true.
func (d *double) fault(f func(w http.ResponseWriter, r request, ctx context.Context) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults = append(d.faults, f)
}

// counts gives how many lists and watches were asked for.
func (d *double) counts() (lists, watches int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.requests {
		if r.watch {
			watches++
		} else {
			lists++
		}
	}
	return lists, watches
}

func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	name, ok := strings.CutPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
	if len(parts) != 6 || strings.Join(parts[:4], "/") != "apis/secrets-store.csi.x-k8s.io/v1/namespaces" ||
		parts[5] != "secretproviderclasses" || !ok || r.Method != http.MethodGet {
		d.t.Errorf("unexpected request %s %s", r.Method, r.URL)
		status(w, http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource")
		return
	}
	q := request{r.URL.Query().Get("watch") == "true", class.Ref{Namespace: parts[4], Name: name}, r.URL.Query().Get("resourceVersion")}
	d.mu.Lock()
	d.requests = append(d.requests, q)
	faults := d.faults
	d.mu.Unlock()
	for _, f := range faults {
		if f(w, q, r.Context()) {
			return
		}
	}
	if q.watch {
		d.watch(w, q, r)
		return
	}
	d.list(w, q)
}

func (d *double) list(w http.ResponseWriter, q request) {
	d.mu.Lock()
	list := v1.SecretProviderClassList{
		TypeMeta: metav1.TypeMeta{APIVersion: v1.GroupVersion().String(), Kind: "SecretProviderClassList"},
		ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(d.version)},
		Items:    []v1.SecretProviderClass{},
	}
	if o, ok := d.objects[q.ref]; ok {
		list.Items = append(list.Items, o)
	}
	d.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list)
}

func (d *double) watch(w http.ResponseWriter, q request, r *http.Request) {
	from, err := strconv.Atoi(q.version)
	if err != nil || r.URL.Query().Get("allowWatchBookmarks") != "true" || r.URL.Query().Get("timeoutSeconds") == "" {
		d.t.Errorf("a watch without version, bookmarks or end: %s", r.URL)
	}
	d.mu.Lock()
	tooOld, cut, stop := from < d.compacted, d.cutNow, d.stop
	d.mu.Unlock()
	if tooOld {
		expired(w)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	d.opened <- q
	defer func() { d.closed <- q }()
	for {
		d.mu.Lock()
		more := d.more
		for _, e := range d.events {
			if e.version > from && e.Object.Name == q.ref.Name && e.Object.Namespace == q.ref.Namespace {
				from = e.version
				_ = json.NewEncoder(w).Encode(e)
			}
		}
		d.mu.Unlock()
		w.(http.Flusher).Flush()
		select {
		case <-more:
		case <-cut:
			_, _ = fmt.Fprint(w, `{"type":"MODIFIED","object":{"kind":"Secr`)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		case <-stop:
			return
		case <-r.Context().Done():
			return
		}
	}
}

// status answers with an error as the API server does, which repeats the
// header Retry-After in the body.
func status(w http.ResponseWriter, code int, reason metav1.StatusReason, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	object := statusObject(code, reason, text)
	if after, err := strconv.Atoi(w.Header().Get("Retry-After")); err == nil {
		object.Details = &metav1.StatusDetails{RetryAfterSeconds: int32(after)}
	}
	_ = json.NewEncoder(w).Encode(object)
}

func statusObject(code int, reason metav1.StatusReason, text string) metav1.Status {
	return metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: text,
	}
}

func expired(w http.ResponseWriter) {
	status(w, http.StatusGone, metav1.StatusReasonExpired, "too old resource version")
}

// expiredEvent is how a watch is told of compaction once it is open.
func expiredEvent(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "ERROR", "object": statusObject(http.StatusGone, metav1.StatusReasonExpired, "the event in requested index is outdated")})
}
