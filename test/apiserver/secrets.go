package apiserver

import (
	"fmt"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// applySecret answers server-side apply of a Secret, with the metadata of what came of it: the
// fields of one manager, as the driver's Secrets have no other. A dry run of a Secret without data
// is a look.
func (a *Server) applySecret(w http.ResponseWriter, r *http.Request) {
	object, meta, size, err := readObject(r)
	if err != nil {
		writeStatus(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
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
