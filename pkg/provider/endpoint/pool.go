package endpoint

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/stores"
)

const (
	// idleConnections is sized for a node's burst of publishes, each of which reads several secrets
	// at a time: connections that were closed after one burst would have to be opened again for the
	// next.
	idleConnections = 128
	// bufferSize fits most requests and answers, in bytes. Each connection has two buffers.
	bufferSize     = 2 << 10
	idleTimeout    = 90 * time.Second
	dialTimeout    = 5 * time.Second
	handshakeLimit = 10 * time.Second
	maxEndpoints   = 64
	// recheck is how often the files of the TLS settings are checked for changes.
	recheck = 2 * time.Second
	// patience is how long a check may delay a caller that has working settings, and stalled is how
	// long the next check waits after a slow one.
	patience = time.Second
	stalled  = time.Minute
)

// Target is a server and how to verify it. It is comparable.
type Target struct {
	Address Address `json:"address"`
	TLS     TLS     `json:"tls"`
}

// Over returns other, with the fields replaced that are not zero in t.
func (t Target) Over(other Target) Target {
	if !t.Address.IsZero() {
		other.Address = t.Address
	}
	if t.TLS != (TLS{}) {
		other.TLS = t.TLS
	}
	return other
}

// Operator is the operator's own server, which classes use that name none.
type Operator struct {
	Target
	// Fallback is the second address of the same store; zero for none.
	Fallback Address
}

// Owns reports whether an address has the operator's own server.
func (o *Operator) Owns(a Address) bool {
	return a.SameServer(o.Address) || (!o.Fallback.IsZero() && a.SameServer(o.Fallback))
}

// Endpoint is a target's warm connections and its circuit breaker.
type Endpoint struct {
	Target
	Breaker Breaker

	mu        sync.Mutex
	transport *http.Transport
	files     [sha256.Size]byte // hash of the files of the transport
	checked   time.Time
	pause     time.Duration // until the next check of the files
	failure   string        // of the last check, logged once
	// reading is closed when the running check of the files ends; nil if none is running.
	reading chan struct{}
	used    time.Time
}

// Pool has one endpoint per target. Logger, Names and Files must be set.
type Pool struct {
	Logger *slog.Logger
	Names  Names
	// Operator is the operator's own server and settings.
	Operator Operator
	Files    *Files
	// Allowed has the servers that the operator named. Those may be anywhere; with AllowLocal all
	// others may be on the node itself too.
	Allowed    Allowlist
	AllowLocal bool

	mu    sync.Mutex
	known map[Target]*Endpoint
}

// Get returns the endpoint, with a transport for the present content of the files. It returns when
// ctx ends, even if the files' file system hangs.
func (p *Pool) Get(ctx context.Context, t Target, now time.Time) (*Endpoint, error) {
	e := p.find(t, now)
	return e, e.refresh(ctx, now, p)
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

// makeRoom removes the endpoint that was unused for longest.
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

// CloseIdle closes the unused connections.
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

// Transport returns the current one.
func (e *Endpoint) Transport() *http.Transport {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.transport
}

// refresh makes a new transport when a file has changed. One caller at a time reads the files,
// without the lock. Until it has finished, and while the new files are not usable, perhaps because
// they are still being written, the old settings stay.
func (e *Endpoint) refresh(ctx context.Context, now time.Time, p *Pool) error {
	for {
		e.mu.Lock()
		since := now.Sub(e.checked)
		reading := e.reading
		switch {
		case e.transport != nil && (reading != nil || since >= 0 && since < e.pause):
			e.mu.Unlock()
			return nil
		case reading == nil:
			e.reading = make(chan struct{})
			e.mu.Unlock()
			return e.reload(ctx, now, p)
		}
		e.mu.Unlock()
		select {
		case <-reading: // this caller checks again if that one failed
		case <-ctx.Done():
			return fmt.Errorf("waiting for the files of the TLS settings for %s: %w", e.Address, fault.Ended(ctx))
		}
	}
}

func (e *Endpoint) reload(ctx context.Context, now time.Time, p *Pool) error {
	if e.Transport() != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	m, err := p.read(ctx, e.Target)
	sum := m.sum()
	e.mu.Lock()
	defer e.mu.Unlock()
	defer func() {
		close(e.reading)
		e.reading = nil
	}()
	e.checked, e.pause = now, recheck
	if errors.Is(err, errHangs) {
		e.pause = stalled
	}
	if err == nil && e.transport != nil && sum == e.files {
		e.failure = ""
		return nil
	}
	var next *http.Transport
	if err == nil {
		next, err = p.newTransport(e.Target, m)
	}
	switch {
	case err != nil && e.transport == nil:
		return err
	case err != nil:
		if text := err.Error(); text != e.failure {
			e.failure = text
			p.Logger.Warn("changed TLS files cannot be used, so the earlier ones stay", logkey.Address, e.Address.String(), logkey.Error, err)
		}
		return nil
	}
	if e.transport != nil {
		e.transport.CloseIdleConnections()
	}
	e.transport, e.files, e.failure = next, sum, ""
	return nil
}

// newTransport takes the proxy settings from the environment, and nothing else.
func (p *Pool) newTransport(target Target, m material) (*http.Transport, error) {
	settings, err := target.TLS.config(m, p.Names)
	if err != nil {
		return nil, err
	}
	r := newReach(p)
	t := &http.Transport{
		Proxy:               r.through,
		DialContext:         r.dial,
		TLSClientConfig:     settings,
		ForceAttemptHTTP2:   true,
		ReadBufferSize:      bufferSize,
		WriteBufferSize:     bufferSize,
		MaxIdleConns:        idleConnections,
		MaxIdleConnsPerHost: idleConnections,
		IdleConnTimeout:     idleTimeout,
		TLSHandshakeTimeout: handshakeLimit,
	}
	if target.Address.scheme == schemeUnix {
		t.Proxy, t.DialContext = nil, dialSocket(target.Address.host)
	}
	return t, nil
}

// Stores describes the health of the servers.
func (p *Pool) Stores() []stores.Store {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]stores.Store, 0, len(p.known))
	for _, e := range p.known {
		s := stores.Store{Address: e.Address.String(), Used: e.used}
		s.Open, s.Circuits = e.Breaker.Circuits(stores.MaxCircuits)
		all = append(all, s)
	}
	return all
}
