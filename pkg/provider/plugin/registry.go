package plugin

import (
	"context"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fair"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Registry finds the providers of a node by the sockets that they serve. It
// keeps one connection to each that is in use.
type Registry struct {
	c Config
	// reading has a place for each answer that may be taken in, shared by the
	// providers.
	reading *fair.Semaphore

	mu    sync.Mutex
	lines map[string]*line
	// returning are the sockets by name behind which a provider returned files.
	returning map[string]socket
	closed    bool
	// answering tells by name whether a provider answered when last asked.
	answering map[string]bool
}

// New validates the configuration. It looks at no socket and starts nothing.
func New(c Config) (*Registry, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	return &Registry{c: c, reading: fair.New(readers, lineReaders), lines: map[string]*line{}, returning: map[string]socket{}}, nil
}

// Get finds a provider that has a socket at this moment. The error, of reason
// fault.UnknownProvider, tells where it looked and what is there.
func (r *Registry) Get(name string) (provider.Provider, error) {
	if _, err := r.c.find(name); err != nil {
		return nil, err
	}
	return &Provider{name: name, registry: r}, nil
}

// Names lists the providers that have a socket at this moment.
func (r *Registry) Names() []string { return r.c.names() }

// watchInterval is how often the providers in use are asked for a sign of life.
const watchInterval = 30 * time.Second

// Run closes connections that are no longer used, and all of them when ctx
// ends; a call after that fails. It keeps watch over the providers in use.
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

// sweep lets go of connections that were unused for long, or whose socket has
// gone or is another's now.
func (r *Registry) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, l := range r.lines {
		now, err := lookUp(l.socket.path)
		unused := l.calls == 0 && r.c.Now().Sub(l.used) >= r.c.IdleTimeout
		if unused || err != nil || now != l.socket {
			r.retire(name)
		}
	}
}

func (r *Registry) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for name := range r.lines {
		r.retire(name)
	}
}

// retire takes a line out of use. Calls that run on it go on to their end.
// The caller holds the mutex.
func (r *Registry) retire(name string) {
	l := r.lines[name]
	delete(r.lines, name)
	l.retired = true
	l.closeUnused()
}
