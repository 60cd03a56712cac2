package testkit_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestProxy(t *testing.T) {
	var seen []string
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Method+" "+r.URL.RequestURI()+" "+r.Header.Get("X-Vault-Token"))
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.Copy(w, r.Body)
	}))
	t.Cleanup(backend.Close)
	p := testkit.NewProxy(t, backend.URL)
	ask := func() (int, string) {
		t.Helper()
		r := testkit.Value(http.NewRequestWithContext(t.Context(), http.MethodPut, p.URL+"/v1/a%20b?list=true", strings.NewReader("body")))(t)
		r.Header.Set("X-Vault-Token", "t")
		resp := testkit.Value(http.DefaultClient.Do(r))(t)
		defer func() { _ = resp.Body.Close() }()
		body := testkit.Value(io.ReadAll(resp.Body))(t)
		return resp.StatusCode, string(body)
	}
	if code, body := ask(); code != http.StatusAccepted || body != "body" {
		t.Errorf("open: %d %q", code, body)
	}
	began := time.Now()
	p.Seal()
	for range 2 {
		if code, body := ask(); code != http.StatusServiceUnavailable || body != `{"errors":["Vault is sealed"]}`+"\n" {
			t.Errorf("closed: %d %q", code, body)
		}
	}
	turned, back := p.Unseal(), time.Now()
	if len(turned) != 2 || turned[0].Before(began) || turned[1].Before(turned[0]) || back.Before(turned[1]) {
		t.Errorf("from %s to %s these were turned away: %v", began, back, turned)
	}
	ask()
	if want := "PUT /v1/a%20b?list=true t"; !slices.Equal(seen, []string{want, want}) {
		t.Errorf("the store saw %q", seen)
	}
	p.Seal()
	if turned := p.Unseal(); len(turned) != 0 {
		t.Errorf("the record does not begin again: %v", turned)
	}
	if n := p.Requests("PUT /v1/a b"); n != 4 {
		t.Errorf("%d requests are counted", n)
	}
}
