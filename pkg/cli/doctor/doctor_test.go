package doctor

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/mayfly-csi/mayfly/pkg/cli/clitest"
	"github.com/mayfly-csi/mayfly/pkg/cli/output"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestReadStorage(t *testing.T) {
	series := func(labels, count string) string { return operations + "{" + labels + "} " + count + "\n" }
	for _, tc := range []struct {
		name, text string
		want       storage
	}{
		{"nothing", "# HELP x y\nother 1\n", storage{}},
		{"KMS", series(`resource="secrets",status="OK",transformation_type="to_storage",transformer_prefix="k8s:enc:kms:v2:a:"`, "3"), storage{true, []string{"k8s:enc:kms:v2:a:"}, nil}},
		{"no encryption of Secrets", series(`resource="secrets",status="OK",transformation_type="to_storage",transformer_prefix=""`, "1e+06"), storage{true, []string{"identity"}, nil}},
		{"read and written", series(`resource="secrets",status="OK",transformation_type="from_storage",transformer_prefix="identity"`, "1") +
			series(`resource="secrets",status="OK",transformation_type="to_storage",transformer_prefix="p"`, "1"), storage{true, []string{"p"}, []string{"identity"}}},
		{"another resource", series(`resource="configmaps",status="OK",transformation_type="to_storage",transformer_prefix="p"`, "1"), storage{true, nil, nil}},
		{"failures alone", series(`resource="secrets",status="Internal",transformation_type="to_storage",transformer_prefix="p"`, "1"), storage{}},
		{"zero", series(`resource="secrets",status="OK",transformation_type="to_storage",transformer_prefix="p"`, "0"), storage{}},
		{"API servers without the label resource", series(`status="OK",transformation_type="to_storage",transformer_prefix="p"`, "1"), storage{true, []string{"p"}, nil}},
		{"no number", series(`resource="secrets",status="OK",transformation_type="to_storage",transformer_prefix="p"`, "many"), storage{}},
		{"cut", operations + `{resource="secrets"`, storage{}},
		{"a long line", strings.Repeat("x", 1<<20) + "\n" + series(`resource="secrets",status="OK",transformation_type="to_storage",transformer_prefix="p"`, "1"), storage{true, []string{"p"}, nil}},
	} {
		got, err := readStorage(strings.NewReader(tc.text))
		if err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: %+v, %v, want %+v", tc.name, got, err, tc.want)
		}
	}
}

// TestOwnCRDs: the CRDs in the program are the chart's.
func TestOwnCRDs(t *testing.T) {
	names, err := filepath.Glob("../../../charts/mayfly/files/crds/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatalf("%q, %v", names, err)
	}
	for _, name := range names {
		want := testkit.Value(os.ReadFile(name))(t)
		testkit.Equal(t, "crds/"+filepath.Base(name)+" is not the chart's: run hack/generate.sh", string(testkit.Value(crdFiles.ReadFile("crds/"+filepath.Base(name)))(t)), string(want))
	}
	own, err := ownCRDs()
	if err != nil || len(own) != len(names) {
		t.Fatalf("%d CRDs, %v", len(own), err)
	}
	for i := range own {
		if len(own[i].Spec.Versions) == 0 || len(own[i].Spec.Versions[0].Schema.OpenAPIV3Schema) == 0 {
			t.Errorf("%s has no schema", own[i].Metadata.Name)
		}
		testkit.Empty(t, "compareCRDs finds differences between a CRD and itself", compareCRDs(&own[i], &own[i]))
	}
}

// TestAsksForPages: a large cluster is read in pages, Secrets without their content, and pods by
// their metadata alone except for those of unknown kinds.
func TestAsksForPages(t *testing.T) {
	var text strings.Builder
	text.WriteString("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n")
	text.WriteString("---\napiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: shop}\ntype: Opaque\ndata: {a: c2VjcmV0LW1hcmtlcg==}\n")
	api := clitest.New(t, text.String())
	for i := range 1200 {
		object := func(kind, name string) *unstructured.Unstructured {
			return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": kind, "metadata": map[string]any{"name": name, "namespace": "shop"}}}
		}
		pod := object("Pod", fmt.Sprintf("p%d", i))
		controller := true
		pod.SetOwnerReferences([]metav1.OwnerReference{{Kind: "ReplicaSet", Name: "x", UID: "u", Controller: &controller}})
		api.Add(object("ConfigMap", fmt.Sprintf("c%d", i)), pod)
	}
	var mu sync.Mutex
	lists := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := httptest.NewRecorder()
		api.ServeHTTP(seen, r)
		kind := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		mu.Lock()
		lists[kind]++
		if strings.Contains(seen.Body.String(), "c2VjcmV0LW1hcmtlcg") {
			t.Errorf("%s %s has a Secret's content", r.Method, r.URL)
		}
		if r.Method != http.MethodGet || seen.Code == http.StatusOK && strings.Contains(seen.Body.String(), `"items"`) && r.URL.Query().Get("limit") == "" {
			t.Errorf("%s %s has no limit", r.Method, r.URL)
		}
		mu.Unlock()
		w.Header().Set("Content-Type", seen.Header().Get("Content-Type"))
		w.WriteHeader(seen.Code)
		_, _ = w.Write(seen.Body.Bytes())
	}))
	t.Cleanup(server.Close)
	config := clientcmdapi.NewConfig()
	config.Clusters["x"] = &clientcmdapi.Cluster{Server: server.URL}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "x"}
	config.CurrentContext = "x"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	testkit.Must(t, clientcmd.WriteToFile(*config, path))
	var out bytes.Buffer
	cmd := New(output.Streams{Out: &out, Err: &out, Getenv: os.Getenv}, &output.Flags{Format: output.Text, Color: "never", FailOn: "error"})
	cmd.SetArgs([]string{"--kubeconfig", path})
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	if err := cmd.Execute(); err == nil {
		t.Error("a cluster without a driver has no findings")
	}
	testkit.Has(t, out.String(), "1 Secret could be mounted by classes instead: s")
	if lists["configmaps"] != 3 || lists["pods"] < 3 || lists["pods"] > 6 || lists["secrets"] != 4 {
		t.Errorf("lists: %v", lists)
	}
}
