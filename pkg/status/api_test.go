package status_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/client-go/rest"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/status"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// A list is for one node, comes from the API server's cache, and follows the API server's pages.
func TestListsInPages(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		asked = append(asked, q.Get("resourceVersion")+"|"+q.Get("limit")+"|"+q.Get("continue")+"|"+q.Get("labelSelector"))
		page := v1.SecretProviderClassPodStatusList{Items: make([]v1.SecretProviderClassPodStatus, 2)}
		page.APIVersion, page.Kind = v1.GroupVersion().String(), "SecretProviderClassPodStatusList"
		if q.Get("continue") == "" {
			page.Continue = "more"
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(page)
	}))
	defer server.Close()
	api, err := status.NewAPI(&rest.Config{Host: server.URL})
	testkit.Must(t, err)
	found, err := api.ListStatuses(t.Context(), "node-1")
	if err != nil || len(found) != 4 {
		t.Fatalf("%d statuses, %v", len(found), err)
	}
	const selector = v1.NodeLabel + "=node-1"
	if len(asked) != 2 || asked[0] != "0|500||"+selector || asked[1] != "|500|more|"+selector {
		t.Errorf("requests %q", asked)
	}
}
