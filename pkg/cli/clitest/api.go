// Package clitest is a recorded API server for the tests of kubectl mayfly: it answers get, list
// and patch from objects in YAML, everything else from recorded answers, and refuses what the user
// may not do.
package clitest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

// recorded is the apiVersion of the documents that are no objects:
//
//	{apiVersion: recorded, kind: Forbidden, rules: ["list nodes", "get pods/log"]}
//	{apiVersion: recorded, kind: Answer, request: "POST /api/v1/…", code: 201, body: {…}}
//	{apiVersion: recorded, kind: Answer, request: "GET /metrics", text: "…"}
//
// An object replaces an earlier one of its name, and with the annotation recorded/gone removes it.
const (
	recorded = "recorded"
	gone     = "recorded/gone"
)

// API is the server.
type API struct {
	mu       sync.Mutex
	objects  []*unstructured.Unstructured
	denied   []string
	answers  map[string]answer
	requests []string
	drivers  map[string]*driver // by pod, as NAMESPACE/NAME
	hung     chan struct{}      // port-forwards wait until it is closed; nil for no wait
	server   *httptest.Server
}

type answer struct {
	Code int
	Body []byte
}

// New starts a server with the documents of some YAML.
func New(t testing.TB, text string) *API {
	t.Helper()
	a, err := Start(text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// Start is New without a test.
func Start(text string) (*API, error) {
	a := &API{answers: map[string]answer{}, drivers: map[string]*driver{}}
	for i, doc := range strings.Split("\n"+text, "\n---") {
		if err := a.load(doc); err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
	}
	a.server = httptest.NewServer(a)
	return a, nil
}

// URL is the server's address.
func (a *API) URL() string { return a.server.URL }

// Close stops the server.
func (a *API) Close() {
	a.mu.Lock()
	if a.hung != nil {
		close(a.hung)
		a.hung = nil
	}
	a.mu.Unlock()
	a.server.Close()
}

func (a *API) load(doc string) error {
	var kind struct{ APIVersion, Kind string }
	if err := yaml.Unmarshal([]byte(doc), &kind); err != nil {
		return err
	}
	if kind.Kind == "" {
		return nil
	}
	if kind.APIVersion != recorded {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			return err
		}
		a.put(o)
		return nil
	}
	var head struct {
		Request, Text string
		Rules         []string
		Code          int
		Body          json.RawMessage
	}
	if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
		return err
	}
	switch kind.Kind {
	case "Forbidden":
		a.denied = append(a.denied, head.Rules...)
	case "NodeStatus":
		text, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			return err
		}
		return a.loadDriver(text)
	case "Answer":
		a.answers[head.Request] = answer{head.Code, head.Body}
		if head.Body == nil {
			a.answers[head.Request] = answer{head.Code, []byte(head.Text)}
		}
	default:
		return fmt.Errorf("unknown kind %q", kind.Kind)
	}
	return nil
}

// put adds an object, or replaces an earlier one of its name.
func (a *API) put(o *unstructured.Unstructured) {
	gv := o.GroupVersionKind()
	same := target{gv.Group, gv.Version, o.GetNamespace(), plural(gv.Kind), o.GetName(), ""}
	a.objects = slices.DeleteFunc(a.objects, same.fits)
	if o.GetAnnotations()[gone] == "" {
		a.objects = append(a.objects, o)
	}
}

// Add adds objects to the server.
func (a *API) Add(objects ...*unstructured.Unstructured) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.objects = append(a.objects, objects...)
}

// Requests are those so far, as "GET /api/v1/pods?limit=500".
func (a *API) Requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.requests)
}

// Kubeconfig writes a kubeconfig of the server to a directory and returns its path. The context's
// namespace is default.
func (a *API) Kubeconfig(dir string) (string, error) {
	c := clientcmdapi.NewConfig()
	c.Clusters["recorded"] = &clientcmdapi.Cluster{Server: a.server.URL}
	c.AuthInfos["developer"] = &clientcmdapi.AuthInfo{Token: "developer"}
	c.Contexts["recorded"] = &clientcmdapi.Context{Cluster: "recorded", AuthInfo: "developer", Namespace: "default"}
	c.CurrentContext = "recorded"
	path := filepath.Join(dir, "kubeconfig")
	return path, clientcmd.WriteToFile(*c, path)
}

// target is the resource that a path names.
type target struct {
	group, version, namespace, resource, name, sub string
}

func parse(path string) (target, bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	var t target
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		t.version, parts = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		t.group, t.version, parts = parts[1], parts[2], parts[3:]
	default:
		return t, false
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		t.namespace, parts = parts[1], parts[2:]
	}
	for i, to := range []*string{&t.resource, &t.name, &t.sub} {
		if i < len(parts) {
			*to = parts[i]
		}
	}
	return t, true
}

// plural is the resource of a kind.
func plural(kind string) string {
	kind = strings.ToLower(kind)
	switch {
	case strings.HasSuffix(kind, "s"):
		return kind + "es"
	case strings.HasSuffix(kind, "y"):
		return strings.TrimSuffix(kind, "y") + "ies"
	}
	return kind + "s"
}

// listKind is the kind of a list of a resource.
func listKind(gv schema.GroupVersion, resource string) string {
	known := scheme.Scheme.KnownTypes(gv)
	if gv == v1.GroupVersion() {
		known = map[string]reflect.Type{"SecretProviderClass": nil, "SecretProviderClassPodStatus": nil}
	}
	for kind := range known {
		if plural(kind) == resource {
			return kind + "List"
		}
	}
	return "List"
}

// ServeHTTP answers one request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if a.forwarded(w, r) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests = append(a.requests, r.Method+" "+r.URL.RequestURI())
	if known, ok := a.answers[r.Method+" "+r.URL.Path]; ok {
		write(w, known.Code, known.Body)
		return
	}
	t, ok := parse(r.URL.Path)
	if !ok {
		fail(w, apierrors.NewNotFound(schema.GroupResource{}, r.URL.Path))
		return
	}
	if err := a.denies(r, t); err != nil {
		fail(w, err)
		return
	}
	switch {
	case r.Method == http.MethodGet && t.name == "":
		a.list(w, r, t)
	case r.Method == http.MethodGet && t.sub == "":
		a.get(w, t)
	case r.Method == http.MethodPatch:
		a.patch(w, r, t)
	default:
		fail(w, apierrors.NewMethodNotSupported(schema.GroupResource{Group: t.group, Resource: t.resource}, r.Method))
	}
}

// verbOf is a request in the form of a rule: "list pods", "create pods/exec".
func verbOf(r *http.Request, t target) string {
	verb := map[string]string{http.MethodGet: "get", http.MethodPost: "create", http.MethodPatch: "patch", http.MethodPut: "update", http.MethodDelete: "delete"}[r.Method]
	if verb == "get" && t.name == "" {
		verb = "list"
	}
	if t.sub != "" {
		return verb + " " + t.resource + "/" + t.sub
	}
	return verb + " " + t.resource
}

// denies returns the error of a request that a rule forbids; nil if none does.
func (a *API) denies(r *http.Request, t target) error {
	if verb := verbOf(r, t); slices.Contains(a.denied, verb) {
		return forbidden(t, strings.Fields(verb)[0])
	}
	return nil
}

func forbidden(t target, verb string) error {
	where := "at the cluster scope"
	if t.namespace != "" {
		where = fmt.Sprintf("in the namespace %q", t.namespace)
	}
	why := fmt.Sprintf("User \"developer\" cannot %s resource %q in API group %q %s", verb, t.resource, t.group, where)
	return apierrors.NewForbidden(schema.GroupResource{Group: t.group, Resource: t.resource}, t.name, errors.New(why))
}

func (t target) fits(o *unstructured.Unstructured) bool {
	gv := o.GroupVersionKind()
	return gv.Group == t.group && gv.Version == t.version && plural(gv.Kind) == t.resource &&
		(t.namespace == "" || o.GetNamespace() == t.namespace) && (t.name == "" || o.GetName() == t.name)
}

func (a *API) find(t target) *unstructured.Unstructured {
	for _, o := range a.objects {
		if t.fits(o) {
			return o
		}
	}
	return nil
}

func (a *API) get(w http.ResponseWriter, t target) {
	if o := a.find(t); o != nil {
		writeObject(w, o.Object)
		return
	}
	fail(w, apierrors.NewNotFound(schema.GroupResource{Group: t.group, Resource: t.resource}, t.name))
}

func (a *API) list(w http.ResponseWriter, r *http.Request, t target) {
	query := r.URL.Query()
	byLabel, err := labels.Parse(query.Get("labelSelector"))
	if err != nil {
		fail(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	byField, err := fields.ParseSelector(query.Get("fieldSelector"))
	if err != nil {
		fail(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	bare := strings.Contains(r.Header.Get("Accept"), "as=")
	if bare && r.Header.Get("Accept") != metadataOnly {
		fail(w, apierrors.NewGenericServerResponse(http.StatusNotAcceptable, "list", schema.GroupResource{}, "", "only the following media types are accepted: application/json", 0, false))
		return
	}
	items := []any{}
	for _, o := range a.objects {
		if t.fits(o) && byLabel.Matches(labels.Set(o.GetLabels())) && byField.Matches(fieldsOf{o}) {
			item := o.Object
			if bare {
				item = map[string]any{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": item["metadata"]}
			}
			items = append(items, item)
		}
	}
	meta := map[string]any{"resourceVersion": "1"}
	if limit, _ := strconv.Atoi(query.Get("limit")); limit > 0 {
		start, _ := strconv.Atoi(query.Get("continue"))
		start = min(start, len(items))
		if start+limit < len(items) {
			meta["continue"] = strconv.Itoa(start + limit)
			items = items[start : start+limit]
		} else {
			items = items[start:]
		}
	}
	gv := schema.GroupVersion{Group: t.group, Version: t.version}
	writeObject(w, map[string]any{"apiVersion": gv.String(), "kind": listKind(gv, t.resource), "metadata": meta, "items": items})
}

// metadataOnly reports whether the request is for objects without their content.
const metadataOnly = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

// fieldsOf returns an object's scalars for a field selector.
type fieldsOf struct{ o *unstructured.Unstructured }

func (f fieldsOf) Get(path string) string {
	v, _, _ := unstructured.NestedFieldNoCopy(f.o.Object, strings.Split(path, ".")...)
	if v == nil {
		return ""
	}
	return fmt.Sprint(v)
}

func (f fieldsOf) Has(path string) bool { return f.Get(path) != "" }

func (a *API) patch(w http.ResponseWriter, r *http.Request, t target) {
	o := a.find(t)
	if o == nil {
		fail(w, apierrors.NewNotFound(schema.GroupResource{Group: t.group, Resource: t.resource}, t.name))
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		fail(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	before, err := json.Marshal(o.Object)
	if err != nil {
		fail(w, apierrors.NewInternalError(err))
		return
	}
	after, err := jsonpatch.MergePatch(before, body)
	if err != nil {
		fail(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	o.Object = nil
	if err := json.Unmarshal(after, &o.Object); err != nil {
		fail(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	if t.resource == v1.SecretProviderClassResource {
		for _, d := range a.drivers {
			d.done = true
		}
	}
	writeObject(w, o.Object)
}

func fail(w http.ResponseWriter, err error) {
	var status apierrors.APIStatus = apierrors.NewInternalError(err)
	if s, ok := err.(apierrors.APIStatus); ok { //nolint:errorlint // this package made it
		status = s
	}
	s := status.Status()
	s.Kind, s.APIVersion = "Status", "v1"
	body, _ := json.Marshal(s)
	write(w, int(s.Code), body)
}

func writeObject(w http.ResponseWriter, o map[string]any) {
	body, err := json.Marshal(o)
	if err != nil {
		fail(w, apierrors.NewInternalError(err))
		return
	}
	write(w, http.StatusOK, body)
}

func write(w http.ResponseWriter, code int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	if code == 0 {
		code = http.StatusOK
	}
	w.WriteHeader(code)
	_, _ = w.Write(body)
}
