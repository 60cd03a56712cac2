package vault

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

const (
	// maxIdle is sized for a node's burst of publishes; what is not needed
	// any longer is closed after idleTimeout.
	maxIdle      = 64
	idleTimeout  = 90 * time.Second
	dialTimeout  = 5 * time.Second
	maxEndpoints = 64
	// recheck is how often the files of the TLS settings are looked at.
	recheck = 2 * time.Second
)

// endpoint is a server with its TLS settings: one transport, whose
// connections stay warm, and one circuit breaker.
type endpoint struct {
	target
	breaker session.Breaker

	mu          sync.Mutex
	transport   *http.Transport
	fingerprint string
	checked     time.Time
	used        time.Time
}

// endpoints holds one endpoint per target.
type endpoints struct {
	mu    sync.Mutex
	known map[target]*endpoint
}

// get finds the endpoint, with a transport that knows the current files.
func (s *endpoints) get(t target, c *Config) (*endpoint, error) {
	now := c.Now()
	s.mu.Lock()
	e, ok := s.known[t]
	if !ok {
		e = &endpoint{target: t}
		s.evict()
		s.known[t] = e
	}
	e.used = now
	s.mu.Unlock()
	return e, e.refresh(now, c)
}

// evict closes the one that was not used for longest. The caller holds mu.
func (s *endpoints) evict() {
	if len(s.known) < maxEndpoints {
		return
	}
	var oldest *endpoint
	for _, e := range s.known {
		if oldest == nil || e.used.Before(oldest.used) {
			oldest = e
		}
	}
	delete(s.known, oldest.target)
	oldest.close()
}

// close ends the idle connections of all.
func (s *endpoints) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.known {
		e.close()
	}
}

func (e *endpoint) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.transport != nil {
		e.transport.CloseIdleConnections()
	}
}

// refresh makes a new transport when a file changed. Where the new files
// cannot be used, for instance because they are being written, the settings
// that were read before stay.
func (e *endpoint) refresh(now time.Time, c *Config) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.transport != nil && now.Sub(e.checked) < recheck && !now.Before(e.checked) {
		return nil
	}
	print := e.tls.fingerprint()
	e.checked = now
	if e.transport != nil && print == e.fingerprint {
		return nil
	}
	settings, err := e.tls.config()
	if err != nil {
		if e.transport == nil {
			return err
		}
		c.Logger.Warn("the changed TLS files cannot be used, so the earlier ones stay", "address", e.address.String(), "error", err)
		return nil
	}
	if e.transport != nil {
		e.transport.CloseIdleConnections()
	}
	e.transport, e.fingerprint = newTransport(e.address), print
	e.transport.TLSClientConfig = settings
	return nil
}

// newTransport takes HTTPS_PROXY, HTTP_PROXY and NO_PROXY from the
// environment, and nothing else.
func newTransport(a address) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConns:          2 * maxIdle,
		MaxIdleConnsPerHost:   maxIdle,
		IdleConnTimeout:       idleTimeout,
		TLSHandshakeTimeout:   2 * dialTimeout,
		ExpectContinueTimeout: time.Second,
	}
	if a.scheme == "unix" {
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", a.host)
		}
	}
	return t
}

func (e *endpoint) roundTripper() http.RoundTripper {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.transport
}

// onceKey is where a request's context says that it must not be repeated.
type onceKey struct{}

// endpointKey is where a request's context carries its endpoint.
type endpointKey struct{}

// dispatcher sends each request over the transport of its endpoint, so that
// one API client serves all of them, and bounds what it reads.
type dispatcher struct{ limit int64 }

func (d dispatcher) RoundTrip(r *http.Request) (*http.Response, error) {
	e, ok := r.Context().Value(endpointKey{}).(*endpoint)
	if !ok {
		return nil, fault.New(fault.Internal, "a request without an endpoint")
	}
	if once, _ := r.Context().Value(onceKey{}).(bool); once && r.ContentLength == 0 {
		// net/http repeats a GET by itself when a kept connection ends before
		// the answer, but not one with a body that it cannot read again.
		r = r.Clone(r.Context())
		r.Body, r.GetBody = io.NopCloser(strings.NewReader("")), nil
	}
	resp, err := e.roundTripper().RoundTrip(r)
	if err == nil {
		resp.Body = &boundedBody{ReadCloser: resp.Body, left: d.limit}
	}
	return resp, err
}
