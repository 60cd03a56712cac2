package apiserver

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func class(name, provider string) *v1.SecretProviderClass {
	return &v1.SecretProviderClass{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       v1.SecretProviderClassSpec{Provider: provider},
	}
}

const classesPath = "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/shop/secretproviderclasses"

// TestWatch edits classes before, while and after they are listed and watched.
func TestWatch(t *testing.T) {
	a := Start(nil)
	t.Cleanup(a.Close)
	put := func(name, provider string) {
		t.Helper()
		testkit.Must(t, a.Put(class(name, provider)))
	}
	put("web", "one")
	var list struct {
		Metadata struct{ ResourceVersion string }
		Items    []v1.SecretProviderClass
	}
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, classesPath+"?fieldSelector=metadata.name%3Dweb", nil))
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list.Items) != 1 {
		t.Fatalf("the list is %s: %v", w.Body, err)
	}
	put("web", "two") // between the list and the watch
	put("other", "one")
	url := a.server.URL + classesPath + "?watch=true&fieldSelector=metadata.name%3Dweb&resourceVersion=" + list.Metadata.ResourceVersion
	request := testkit.Value(http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil))(t)
	answer := testkit.Value(a.server.Client().Do(request))(t)
	defer answer.Body.Close()
	lines := bufio.NewScanner(answer.Body)
	for _, want := range []string{"two", "three"} {
		if !lines.Scan() {
			t.Fatalf("the watch ended: %v", lines.Err())
		}
		var event struct {
			Type   string
			Object v1.SecretProviderClass
		}
		testkit.Must(t, json.Unmarshal(lines.Bytes(), &event))
		if event.Type != "MODIFIED" || event.Object.Name != "web" || event.Object.Spec.Provider != want {
			t.Errorf("got %s, want the edit to provider %q", lines.Bytes(), want)
		}
		put("web", "three")
	}
}

// TestSize counts everything that was written, and not only what is still there.
func TestSize(t *testing.T) {
	a := Start(nil)
	t.Cleanup(a.Close)
	const events = "/api/v1/namespaces/shop/events"
	for _, call := range []struct{ method, path, body string }{
		{http.MethodPost, events, `{"metadata":{"name":"a"}}`},
		{http.MethodPut, events + "/a", `{"metadata":{"name":"a"},"note":"x"}`},
		{http.MethodDelete, events + "/a", ""},
	} {
		w := httptest.NewRecorder()
		a.Handler().ServeHTTP(w, httptest.NewRequest(call.method, call.path, strings.NewReader(call.body)))
		if w.Code >= http.StatusBadRequest {
			t.Fatalf("%s: %d %s", call.method, w.Code, w.Body)
		}
	}
	if got, want := a.Written.Size("shop", "events"), (Size{Writes: 2, Bytes: 25 + 36, Largest: 36}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, none := a.Written.Writes("shop", "events", "a"), a.Written.Writes("shop", "events", "b"); got != 2 || none != 0 {
		t.Errorf("%d and %d writes", got, none)
	}
	if got := a.Written.Size("bank", "events"); got != (Size{}) {
		t.Errorf("another namespace has %+v", got)
	}
}
