package testkit

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy forwards requests to a store's server. A test can have it answer in the server's place.
type Proxy struct {
	*httptest.Server
	forward *httputil.ReverseProxy

	mu       sync.Mutex
	instead  Intercept
	requests map[string]int // by "METHOD path"
	refused  []time.Time
}

// Intercept answers a request, or has the server behind the proxy answer it.
type Intercept func(w http.ResponseWriter, r *http.Request, forward http.Handler)

// StartProxy starts a proxy before the server at an address, until Close.
func StartProxy(address string) *Proxy {
	p := &Proxy{requests: map[string]int{}, forward: &httputil.ReverseProxy{
		Transport: &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: 10 * time.Minute},
		// The default also logs, which is noise when a client ends in the middle of a request. The
		// client reports any other failure.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		Rewrite: func(r *httputil.ProxyRequest) {
			to, err := url.Parse(address)
			if err != nil {
				panic(http.ErrAbortHandler) // the test's own server
			}
			r.SetURL(to)
		},
	}}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	return p
}

// NewProxy is StartProxy for a test, at whose end it closes the proxy.
func NewProxy(t testing.TB, address string) *Proxy {
	p := StartProxy(address)
	t.Cleanup(p.Close)
	return p
}

// Close ends the proxy and its connections.
func (p *Proxy) Close() {
	p.CloseClientConnections()
	p.Server.Close()
	p.forward.Transport.(*http.Transport).CloseIdleConnections()
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.requests[r.Method+" "+r.URL.Path]++
	instead := p.instead
	p.mu.Unlock()
	if instead == nil {
		instead = func(w http.ResponseWriter, r *http.Request, forward http.Handler) { forward.ServeHTTP(w, r) }
	}
	instead(w, r, p.forward)
}

// Requests counts the requests with a suffix of "METHOD path".
func (p *Proxy) Requests(suffix string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for request, times := range p.requests {
		if strings.HasSuffix(request, suffix) {
			n += times
		}
	}
	return n
}

// Intercept passes all requests to f from now on; to the server itself if f is nil.
func (p *Proxy) Intercept(f Intercept) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.instead = f
}

// Answer gives one answer to all requests, until Unseal or Intercept.
func (p *Proxy) Answer(status int, contentType, body string) {
	p.Intercept(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { Answer(w, status, contentType, body) })
}

// Seal answers as a sealed Vault does, and records when each request came, until Unseal.
func (p *Proxy) Seal() {
	p.Intercept(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		p.mu.Lock()
		p.refused = append(p.refused, time.Now())
		p.mu.Unlock()
		Answer(w, http.StatusServiceUnavailable, "application/json", `{"errors":["Vault is sealed"]}`+"\n")
	})
}

// Unseal forwards again, and returns the times of the requests that Seal refused, in order.
func (p *Proxy) Unseal() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	refused := p.refused
	p.instead, p.refused = nil, nil
	return refused
}

// Answer writes an answer with a body.
func Answer(w http.ResponseWriter, status int, contentType, body string) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}
