package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// gate is a proxy before the real Vault. When closed, it answers as a sealed Vault does, and
// records when each request reached it.
type gate struct {
	server *httptest.Server
	proxy  *httputil.ReverseProxy

	mu     sync.Mutex
	shut   bool
	turned []time.Time
}

func startGate(target string) *gate {
	transport := &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: 10 * time.Minute}
	g := &gate{proxy: &httputil.ReverseProxy{
		Transport: transport,
		// The default also logs, which is noise when a driver stops in the middle of a request. The
		// driver reports any other failure.
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
		Rewrite: func(r *httputil.ProxyRequest) {
			to, err := url.Parse(target)
			if err != nil {
				panic(http.ErrAbortHandler) // our own Vault's address
			}
			r.SetURL(to)
		},
	}}
	g.server = httptest.NewServer(g)
	return g
}

func (g *gate) url() string { return g.server.URL }

func (g *gate) close() {
	g.server.CloseClientConnections()
	g.server.Close()
	g.proxy.Transport.(*http.Transport).CloseIdleConnections()
}

// ServeHTTP implements http.Handler.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.turn() {
		g.proxy.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = io.WriteString(w, `{"errors":["Vault is sealed"]}`+"\n")
}

// turn reports whether a request is refused, and records it.
func (g *gate) turn() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		g.turned = append(g.turned, time.Now())
	}
	return g.shut
}

// lock closes the gate and begins a new record.
func (g *gate) lock() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut, g.turned = true, nil
	return time.Now()
}

// unlock opens it, and returns the time and the times of the refused requests, in order.
func (g *gate) unlock() (time.Time, []time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = false
	return time.Now(), g.turned
}

// mostWithin is the largest number of moments in any stretch of that length,
// and when the first such stretch begins. The moments are in order.
func mostWithin(moments []time.Time, length time.Duration) (most int, begins time.Time) {
	first := 0
	for last, at := range moments {
		for at.Sub(moments[first]) >= length {
			first++
		}
		if n := last - first + 1; n > most {
			most, begins = n, moments[first]
		}
	}
	return most, begins
}
