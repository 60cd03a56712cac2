package endpoint

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

const (
	// idleConnections is sized for a node's burst of publishes, each of which
	// reads several secrets at a time: those that were closed after one burst
	// would have to be opened anew for the next.
	idleConnections = 128
	// bufferSize holds most requests and answers. Two of them are kept for
	// each connection.
	bufferSize     = 2 << 10
	idleTimeout    = 90 * time.Second
	dialTimeout    = 5 * time.Second
	handshakeLimit = 10 * time.Second
	maxEndpoints   = 64
	// recheck is how often the files of the TLS settings are looked at.
	recheck = 2 * time.Second
)

// Target is a server and how it is verified. It is comparable.
type Target struct {
	Address Address
	TLS     TLS
}

// Endpoint is a target's warm connections and its circuit breaker.
type Endpoint struct {
	Target
	Breaker session.Breaker

	mu          sync.Mutex
	transport   *http.Transport
	fingerprint string
	checked     time.Time
	used        time.Time
}

// Pool holds one endpoint per target. Logger and Names must be set.
type Pool struct {
	Logger *slog.Logger
	Names  Names

	mu    sync.Mutex
	known map[Target]*Endpoint
}

// Get finds the endpoint, with a transport that knows the files as they are.
func (p *Pool) Get(t Target, now time.Time) (*Endpoint, error) {
	e := p.find(t, now)
	return e, e.refresh(now, p)
}

func (p *Pool) find(t Target, now time.Time) *Endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.known[t]
	if !ok {
		if p.known == nil {
			p.known = map[Target]*Endpoint{}
		}
		p.makeRoom()
		e = &Endpoint{Target: t}
		p.known[t] = e
	}
	e.used = now
	return e
}

// makeRoom gives up the endpoint that was not used for longest.
func (p *Pool) makeRoom() {
	if len(p.known) < maxEndpoints {
		return
	}
	var oldest *Endpoint
	for _, e := range p.known {
		if oldest == nil || e.used.Before(oldest.used) {
			oldest = e
		}
	}
	delete(p.known, oldest.Target)
	oldest.closeIdle()
}

// CloseIdle ends the connections that nobody uses.
func (p *Pool) CloseIdle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range p.known {
		e.closeIdle()
	}
}

func (e *Endpoint) closeIdle() {
	if t := e.Transport(); t != nil {
		t.CloseIdleConnections()
	}
}

// Transport is the current one.
func (e *Endpoint) Transport() *http.Transport {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.transport
}

// refresh makes a new transport when a file changed. While the new files
// cannot be used, perhaps because they are being written, the old settings
// stay.
func (e *Endpoint) refresh(now time.Time, p *Pool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	since := now.Sub(e.checked)
	if e.transport != nil && since >= 0 && since < recheck {
		return nil
	}
	print := e.TLS.fingerprint()
	e.checked = now
	if e.transport != nil && print == e.fingerprint {
		return nil
	}
	settings, err := e.TLS.config(p.Names)
	switch {
	case err != nil && e.transport == nil:
		return err
	case err != nil:
		p.Logger.Warn("changed TLS files cannot be used, so the earlier ones stay", "address", e.Address.String(), "error", err)
		return nil
	}
	if e.transport != nil {
		e.transport.CloseIdleConnections()
	}
	e.transport, e.fingerprint = newTransport(e.Address), print
	e.transport.TLSClientConfig = settings
	return nil
}

// newTransport takes the proxy settings from the environment, nothing else.
func newTransport(a Address) *http.Transport {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		ForceAttemptHTTP2:   true,
		ReadBufferSize:      bufferSize,
		WriteBufferSize:     bufferSize,
		MaxIdleConns:        idleConnections,
		MaxIdleConnsPerHost: idleConnections,
		IdleConnTimeout:     idleTimeout,
		TLSHandshakeTimeout: handshakeLimit,
	}
	if a.scheme == unix {
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, unix, a.host)
		}
	}
	return t
}
