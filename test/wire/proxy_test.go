package wire

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mayfly-csi/mayfly/test/testkit"
)

// proxyBeforeVault forwards to Vault, or gives another answer instead.
type proxyBeforeVault struct {
	*httptest.Server
	instead atomic.Pointer[http.HandlerFunc]
	mu      sync.Mutex
	got     []string // requests, as "METHOD path"
}

func newProxyBeforeVault(t *testing.T, address string) *proxyBeforeVault {
	t.Helper()
	to, err := url.Parse(address)
	testkit.Must(t, err)
	forward := httputil.NewSingleHostReverseProxy(to)
	p := &proxyBeforeVault{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.got = append(p.got, r.Method+" "+r.URL.Path)
		p.mu.Unlock()
		if instead := p.instead.Load(); instead != nil {
			(*instead)(w, r)
			return
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

// requests counts the requests with a suffix of "METHOD path".
func (p *proxyBeforeVault) requests(suffix string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, got := range p.got {
		if strings.HasSuffix(got, suffix) {
			n++
		}
	}
	return n
}

func (p *proxyBeforeVault) answer(status int, contentType, body string) {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
	p.instead.Store(&h)
}

func (p *proxyBeforeVault) seal() {
	p.answer(http.StatusServiceUnavailable, "application/json", `{"errors":["Vault is sealed"]}`)
}

func (p *proxyBeforeVault) unseal() { p.instead.Store(nil) }

// TestProxyAnswersRemoveNothing: answers of a proxy before Vault neither empty a volume with onDenied:
// empty nor remove optional files.
func TestProxyAnswersRemoveNothing(t *testing.T) {
	r := newRig(t, allowLocalAddresses)
	b := newProxyBeforeVault(t, r.vault.Address)
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
		before := b.requests("")
		b.answer(answer.status, answer.contentType, answer.body)
		r.eventually("two requests were answered by the proxy", func() bool { return b.requests("") >= before+2 })
		r.wantFile(p, "one")
		if got := r.file(p, "whole"); got != whole {
			t.Errorf("%d %s: the file holds %q", answer.status, answer.body, got)
		}
	}
	b.unseal()
	r.put("db", "two")
	r.eventually("the file is rotated", func() bool { return r.file(p, "password") == marker+"-two" })
	testkit.Must(t, r.vault.Policy(t.Context(), "web", `path "kv1/other" { capabilities = ["read"] }`))
	r.eventually("Vault's own denial empties the volume", func() bool { return strings.Contains(r.file(p, "password"), "no such file") })
	if !strings.Contains(r.log.String(), "a proxy, ingress or firewall before Vault") {
		t.Error("the log does not say who may have answered")
	}
}
