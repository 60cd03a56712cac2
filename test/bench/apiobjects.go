package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
)

// objectStore keeps what the driver itself writes to the API server, by path:
// pod statuses and Events.
type objectStore struct {
	mu      sync.Mutex
	objects map[string]map[string]any
	version int
}

// create answers a POST to a collection.
func (s *objectStore) create(w http.ResponseWriter, r *http.Request) {
	object, meta, err := readObject(r)
	if err != nil {
		writeStatus(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
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
	s.keep(w, key, object, http.StatusCreated)
}

func (s *objectStore) get(w http.ResponseWriter, r *http.Request) {
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
func (s *objectStore) list(w http.ResponseWriter, r *http.Request) {
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

func (s *objectStore) update(w http.ResponseWriter, r *http.Request) {
	object, meta, err := readObject(r)
	if err != nil {
		writeStatus(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
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
	s.keep(w, r.URL.Path, object, http.StatusOK)
}

func (s *objectStore) remove(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[r.URL.Path]; !ok {
		writeStatus(w, http.StatusNotFound, metav1.StatusReasonNotFound, r.URL.Path)
		return
	}
	delete(s.objects, r.URL.Path)
	writeObject(w, http.StatusOK, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
}

// count is how many objects of a resource there are.
func (s *objectStore) count(resource string) int {
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

// collect does the garbage collector's work once all pods are gone, to which
// the objects belong: what a driver that was stopped has left goes.
func (s *objectStore) collect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.objects)
}

// keep stores an object in a new version, and answers with it.
func (s *objectStore) keep(w http.ResponseWriter, key string, object map[string]any, code int) {
	s.version++
	object["metadata"].(map[string]any)["resourceVersion"] = fmt.Sprint(s.version)
	s.objects[key] = object
	writeObject(w, code, object)
}

func readObject(r *http.Request) (object, meta map[string]any, err error) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, nil, err
	}
	if err := json.Unmarshal(data, &object); err != nil {
		return nil, nil, err
	}
	meta, ok := object["metadata"].(map[string]any)
	if name, _ := meta["name"].(string); !ok || name == "" {
		return nil, nil, fmt.Errorf("%s: metadata.name is missing", r.URL.Path)
	}
	return object, meta, nil
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
