package wire

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/node"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

// proxyBeforeVault forwards to Vault, or gives another answer instead.
type proxyBeforeVault struct {
	*httptest.Server
	instead  atomic.Pointer[http.HandlerFunc]
	answered atomic.Int64 // requests that Vault did not get
}

func newProxyBeforeVault(t *testing.T) *proxyBeforeVault {
	b := &proxyBeforeVault{}
	b.Server = httptest.NewUnstartedServer(nil)
	t.Cleanup(b.Close)
	return b
}

// serve begins to forward to a Vault.
func (b *proxyBeforeVault) serve(t *testing.T, address string) {
	t.Helper()
	to, err := url.Parse(address)
	testkit.Must(t, err)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	b.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if instead := b.instead.Load(); instead != nil {
			b.answered.Add(1)
			(*instead)(w, r)
			return
		}
		proxy.ServeHTTP(w, r)
	})
	b.Start()
}

func (b *proxyBeforeVault) answer(status int, contentType, body string) {
	b.answered.Store(0)
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
	b.instead.Store(&h)
}

// TestProxyAnswersRemoveNothing: answers of a proxy before Vault neither empty a volume with onDenied:
// empty nor remove optional files.
func TestProxyAnswersRemoveNothing(t *testing.T) {
	b := newProxyBeforeVault(t)
	r := newRig(t, func(c *node.Config) { c.Vault.AllowLocalAddresses = true }) // the proxy listens there
	b.serve(t, r.vault.Address)
	testkit.Must(t, r.vault.PutKV1(t.Context(), "kv1", "app", map[string]any{"user": marker + "-user"}))
	r.manifest("secrets", `- {objectName: password, secretPath: secret/data/db, secretKey: password, optional: true}
- {objectName: whole, secretPath: kv1/app, optional: true}`, "onDenied: empty", "refreshInterval: 1s", "vaultAddress: "+b.URL)
	p := r.pod("web-0", "web", "secrets")
	r.publish(p)
	whole := r.file(p, "whole")
	for _, answer := range []struct {
		status            int
		contentType, body string
	}{
		{404, "text/html", "<html>default backend - 404"},
		{404, "application/json", `{"message":"no Route matched with those values","request_id":"1"}`},
		{403, "text/plain", "RBAC: access denied"},
		{401, "text/html", ""},
		{200, "application/json", `{"status":"maintenance"}`},
	} {
		b.answer(answer.status, answer.contentType, answer.body)
		r.eventually("two requests were answered by the proxy", func() bool { return b.answered.Load() >= 2 })
		r.wantFile(p, "one")
		if got := r.file(p, "whole"); got != whole {
			t.Errorf("%d %s: the file holds %q", answer.status, answer.body, got)
		}
	}
	b.instead.Store(nil)
	r.put("db", "two")
	r.eventually("the file is rotated", func() bool { return r.file(p, "password") == marker+"-two" })
	testkit.Must(t, r.vault.Policy(t.Context(), "web", `path "kv1/other" { capabilities = ["read"] }`))
	r.eventually("Vault's own denial empties the volume", func() bool { return strings.Contains(r.file(p, "password"), "no such file") })
	if !strings.Contains(r.log.String(), "a proxy, ingress or firewall before Vault") {
		t.Error("the log does not say who may have answered")
	}
}
