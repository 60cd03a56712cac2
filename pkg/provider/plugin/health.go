package plugin

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider/plugin/v1alpha1"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// maxRuntime bounds a provider's description of itself, in bytes.
const maxRuntime = 128

// Status is the health of a provider.
type Status struct {
	Name   string
	Socket string
	// Runtime and Version are the provider's own text, and may be empty.
	Runtime, Version string
	// Err is nil if the provider is there and answers.
	Err error
}

// Health checks providers by their names, all at once and each for two seconds at most. The result
// has their order.
func (r *Registry) Health(ctx context.Context, names []string) []Status {
	all := make([]Status, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { all[i] = r.health(ctx, name) })
	}
	wg.Wait()
	return all
}

func (r *Registry) health(ctx context.Context, name string) Status {
	s := Status{Name: name}
	l, err := r.acquire(name)
	if err != nil {
		s.Err = err
		return s
	}
	defer r.release(l, false)
	s.Socket = l.socket.path
	bounded, cancel := context.WithTimeout(ctx, livenessTimeout)
	defer cancel()
	answer, err := l.version(bounded)
	if err != nil {
		st := status.Convert(err)
		s.Err = fmt.Errorf("asking provider %q at %s for its version: %s: %s", name, l.socket.path, st.Code(), secret.OneLine(st.Message(), maxWords))
		return s
	}
	s.Runtime, s.Version = secret.OneLine(answer.GetRuntimeName(), maxRuntime), secret.OneLine(answer.GetRuntimeVersion(), maxRuntime)
	return s
}

// Answering says for each provider in use whether it answered its last health check.
func (r *Registry) Answering() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.answering)
}

// watch checks the health of each provider in use, and logs which of them stopped answering or
// answer again.
func (r *Registry) watch(ctx context.Context) {
	r.mu.Lock()
	names := slices.Sorted(maps.Keys(r.connections))
	r.mu.Unlock()
	all := r.Health(ctx, names)
	if ctx.Err() != nil {
		return
	}
	now := make(map[string]bool, len(all))
	before := r.Answering()
	for _, s := range all {
		now[s.Name] = s.Err == nil
		was, known := before[s.Name]
		switch {
		case s.Err != nil && (was || !known):
			r.c.Logger.Warn("a provider plugin does not answer; its volumes keep their last good content", logkey.Provider, s.Name, logkey.Error, s.Err)
		case s.Err == nil && !was:
			r.c.Logger.Info("a provider plugin answers", logkey.Provider, s.Name, logkey.Socket, s.Socket, logkey.Runtime, s.Runtime, logkey.Version, s.Version)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answering = now
}

// ask checks the provider's health.
func (l *connection) ask(ctx context.Context) error {
	_, err := l.version(ctx)
	return err
}

// version calls Version. A provider that does not implement the call has answered too: it is alive.
func (l *connection) version(ctx context.Context) (*v1alpha1.VersionResponse, error) {
	answer, err := l.client.Version(ctx, &v1alpha1.VersionRequest{Version: protocol})
	if status.Code(err) == codes.Unimplemented {
		return &v1alpha1.VersionResponse{}, nil
	}
	return answer, err
}

const (
	// livenessTimeout bounds a health check, together with a quarter of a call's time.
	livenessTimeout = 2 * time.Second
	// livenessPause is how long the driver waits after a failed health check.
	livenessPause = 3 * time.Second
)

// liveness keeps a provider that hangs from blocking all workers that refresh volumes. Once a call has
// timed out, the next ones check the provider's health first, which is cheap. A provider that
// answers is only waiting for its store in some calls, and the others go on; one that does not
// answer fails them at once.
type liveness struct {
	asking chan struct{} // one slot, for the caller that checks

	mu      sync.Mutex
	suspect bool
	until   time.Time // no check before this time
}

func newLiveness() liveness { return liveness{asking: make(chan struct{}, 1)} }

// set records whether the last call had no answer, and until when the provider is not checked.
func (p *liveness) set(suspect bool, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.suspect, p.until = suspect, until
}

func (p *liveness) state(now time.Time) (suspect, resting bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.suspect, p.suspect && now.Before(p.until)
}

// check reports whether the provider is worth a call. ask checks its health; concurrent callers
// share the result.
func (p *liveness) check(ctx context.Context, c *Config, ask func(context.Context) error) bool {
	if suspect, resting := p.state(c.Now()); !suspect || resting {
		return !suspect
	}
	select {
	case p.asking <- struct{}{}:
		defer func() { <-p.asking }()
	case <-ctx.Done():
		return false
	}
	if suspect, resting := p.state(c.Now()); !suspect || resting {
		return !suspect
	}
	bounded, cancel := context.WithTimeout(ctx, min(livenessTimeout, c.Timeout/4))
	defer cancel()
	err := ask(bounded)
	switch {
	case err == nil:
		p.set(false, time.Time{})
	case ctx.Err() == nil:
		p.set(true, c.Now().Add(livenessPause))
	}
	return err == nil
}
