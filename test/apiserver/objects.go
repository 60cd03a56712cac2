package apiserver

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

// Objects stores the driver's own writes to the API server, by path: pod statuses and Events.
type Objects struct {
	mu      sync.Mutex
	objects map[string]map[string]any
	sizes   map[string]*Size // by collection
	writes  map[string]int   // by object
	version int
}

// Size is what the driver has written into a collection, still there or not: how often, bytes in
// all, and bytes of the largest object.
type Size struct {
	Writes         int
	Bytes, Largest int64
}

// Size returns what was written so far of a resource in a namespace.
func (s *Objects) Size(namespace, resource string) Size {
	s.mu.Lock()
	defer s.mu.Unlock()
	for collection, size := range s.sizes {
		if path.Base(collection) == resource && path.Base(path.Dir(collection)) == namespace {
			return *size
		}
	}
	return Size{}
}

// Writes is how often objects of a resource were written whose names begin so.
func (s *Objects) Writes(namespace, resource, prefix string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for key, writes := range s.writes {
		collection, name := path.Split(key)
		if path.Base(collection) == resource && path.Base(path.Dir(path.Clean(collection))) == namespace && strings.HasPrefix(name, prefix) {
			n += writes
		}
	}
	return n
}

// create answers a POST to a collection.
func (s *Objects) create(w http.ResponseWriter, r *http.Request) {
	object, meta, size, ok := readObject(w, r)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := path.Join(r.URL.Path, fmt.Sprint(meta["name"]))
	if _, taken := s.objects[key]; taken {
		writeStatus(w, http.StatusConflict, metav1.StatusReasonAlreadyExists, key)
		return
	}
	meta["uid"] = fmt.Sprintf("uid-%d", s.version)
	s.keep(w, key, object, size, http.StatusCreated)
}

func (s *Objects) get(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	object, ok := s.objects[r.URL.Path]
	if !ok {
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, r.URL.Path)
		return
	}
	writeObject(w, http.StatusOK, object)
}

// list answers for one resource in all namespaces; the one node here is every
// label selector's.
func (s *Objects) list(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := []map[string]any{}
	for key, object := range s.objects {
		if path.Base(path.Dir(key)) == path.Base(r.URL.Path) {
			items = append(items, object)
		}
	}
	writeObject(w, http.StatusOK, map[string]any{
		"apiVersion": v1.GroupVersion().String(), "kind": "SecretProviderClassPodStatusList",
		"metadata": map[string]any{"resourceVersion": fmt.Sprint(s.version)}, "items": items,
	})
}

func (s *Objects) update(w http.ResponseWriter, r *http.Request) {
	object, meta, size, ok := readObject(w, r)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.objects[r.URL.Path]
	if !ok {
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, r.URL.Path)
		return
	}
	meta["uid"] = old["metadata"].(map[string]any)["uid"]
	s.keep(w, r.URL.Path, object, size, http.StatusOK)
}

func (s *Objects) remove(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[r.URL.Path]; !ok {
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, r.URL.Path)
		return
	}
	delete(s.objects, r.URL.Path)
	writeObject(w, http.StatusOK, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
}

// Count is how many objects of a resource there are.
func (s *Objects) Count(resource string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for key := range s.objects {
		if path.Base(path.Dir(key)) == resource {
			n++
		}
	}
	return n
}

// Collect does the garbage collector's work once all pods are gone, which own the objects: it
// removes what a stopped driver left.
func (s *Objects) Collect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.objects)
}

// keep stores an object in a new version, and answers with it.
func (s *Objects) keep(w http.ResponseWriter, key string, object map[string]any, size int64, code int) {
	s.version++
	of := s.sizes[path.Dir(key)]
	if of == nil {
		of = &Size{}
		s.sizes[path.Dir(key)] = of
	}
	of.Writes++
	s.writes[key]++
	of.Bytes += size
	of.Largest = max(of.Largest, size)
	object["metadata"].(map[string]any)["resourceVersion"] = fmt.Sprint(s.version)
	s.objects[key] = object
	writeObject(w, code, object)
}

// readObject reads the object of a request. It refuses a request without one itself, and returns false.
func readObject(w http.ResponseWriter, r *http.Request) (object, meta map[string]any, size int64, ok bool) {
	data, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(data, &object)
	}
	meta, _ = object["metadata"].(map[string]any)
	if name, _ := meta["name"].(string); err == nil && name == "" {
		err = fmt.Errorf("%s: metadata.name is missing", r.URL.Path)
	}
	if err != nil {
		writeStatus(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
	}
	return object, meta, int64(len(data)), err == nil
}

func writeObject(w http.ResponseWriter, code int, object any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object)
}

func writeStatus(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	writeObject(w, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: message,
	})
}

// applySecret answers server-side apply of a Secret, with the metadata of what came of it: the
// fields of one manager, as the driver's Secrets have no other. A dry run of a Secret without data
// is a look.
func (a *Server) applySecret(w http.ResponseWriter, r *http.Request) {
	object, meta, size, ok := readObject(w, r)
	if !ok {
		return
	}
	look := r.URL.Query().Get("dryRun") != ""
	if look {
		a.count("secret look")
	} else {
		a.count("secret apply")
	}
	s := &a.Written
	s.mu.Lock()
	defer s.mu.Unlock()
	object["apiVersion"], object["kind"] = "meta.k8s.io/v1", "PartialObjectMetadata"
	old := s.objects[r.URL.Path]
	switch {
	case look && old == nil:
		writeObject(w, http.StatusCreated, object)
	case look:
		writeObject(w, http.StatusOK, old)
	case old != nil && meta["resourceVersion"] != old["metadata"].(map[string]any)["resourceVersion"]:
		writeStatus(w, http.StatusConflict, metav1.StatusReasonConflict, r.URL.Path)
	default:
		code := http.StatusOK
		if old == nil {
			meta["uid"], code = fmt.Sprintf("uid-%d", s.version), http.StatusCreated
		}
		meta["managedFields"] = []any{map[string]any{
			"manager": r.URL.Query().Get("fieldManager"), "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
			"fieldsV1": map[string]any{"f:data": fieldsOf(object["data"])},
		}}
		delete(object, "data")
		s.keep(w, r.URL.Path, object, size, code)
	}
}

func fieldsOf(data any) map[string]any {
	fields := map[string]any{}
	values, _ := data.(map[string]any)
	for key := range values {
		fields["f:"+key] = map[string]any{}
	}
	return fields
}
