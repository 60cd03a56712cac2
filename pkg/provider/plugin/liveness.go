package plugin

import (
	"context"
	"sync"
	"time"
)

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

// lost records a call without an answer, found one with an answer.
func (p *liveness) lost() { p.set(true, time.Time{}) }

func (p *liveness) found() { p.set(false, time.Time{}) }

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
		p.found()
	case ctx.Err() == nil:
		p.set(true, c.Now().Add(livenessPause))
	}
	return err == nil
}
