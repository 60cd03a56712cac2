package plugin

import (
	"context"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fair"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Registry finds the providers of a node by their sockets. It has one connection to each provider
// in use.
type Registry struct {
	c Config
	// reading bounds the answers that are read at once; the providers share it fairly.
	reading *fair.Semaphore

	mu          sync.Mutex
	connections map[string]*connection
	// returning are the sockets by name behind which a provider returned files.
	returning map[string]socket
	closed    bool
	// answering says by name whether a provider answered its last health check.
	answering map[string]bool
}

// New validates the configuration. It looks at no socket and starts nothing.
func New(c Config) (*Registry, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	return &Registry{c: c, reading: fair.New(readers, providerReaders), connections: map[string]*connection{}, returning: map[string]socket{}}, nil
}

// Get finds a provider that has a socket at this moment. The error, of reason
// fault.UnknownProvider, says where it looked and what it found there.
func (r *Registry) Get(name string) (provider.Provider, error) {
	if _, err := r.c.find(name); err != nil {
		return nil, err
	}
	return &Provider{name: name, registry: r}, nil
}

// Names lists the providers that have a socket at this moment.
func (r *Registry) Names() []string { return r.c.names() }

// watchInterval is how often the health of the providers in use is checked.
const watchInterval = 30 * time.Second

// Run closes unused connections, and all of them when ctx ends; a call after that fails. It checks
// the health of the providers in use.
func (r *Registry) Run(ctx context.Context) error {
	defer r.close()
	sweep, watch := time.NewTicker(max(r.c.IdleTimeout/2, time.Second)), time.NewTicker(watchInterval)
	defer sweep.Stop()
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-sweep.C:
			r.sweep()
		case <-watch.C:
			r.watch(ctx)
		}
	}
}

// sweep closes connections that were unused for long, or whose socket is gone or belongs to another
// process now.
func (r *Registry) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, l := range r.connections {
		now, err := lookUp(l.socket.path)
		unused := l.calls == 0 && r.c.Now().Sub(l.used) >= r.c.IdleTimeout
		if unused || err != nil || now != l.socket {
			r.remove(name)
		}
	}
}

func (r *Registry) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for name := range r.connections {
		r.remove(name)
	}
}

// remove removes a connection from use. Its running calls go on to their end. The caller holds the
// mutex.
func (r *Registry) remove(name string) {
	l := r.connections[name]
	delete(r.connections, name)
	l.removed = true
	l.closeUnused()
}
