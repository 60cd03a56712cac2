package plugin

import (
	"context"
	"sync"
	"time"
)

const (
	// pulseTimeout is how long a provider may take to say who it is, or a
	// quarter of a call's time if that is less.
	pulseTimeout = 2 * time.Second
	// pulsePause is how long a provider that did not say so is left alone.
	pulsePause = 3 * time.Second
)

// pulse keeps a provider that hangs from tying up all workers that refresh
// volumes. Once a call has timed out, the next ones ask for a sign of life
// first, which is cheap: a provider that gives one is merely waiting for its
// store in some calls, and the others go on; one that gives none fails them at
// once.
type pulse struct {
	asking chan struct{} // has the place of the one who asks

	mu      sync.Mutex
	suspect bool
	until   time.Time // is not asked before
}

func newPulse() pulse { return pulse{asking: make(chan struct{}, 1)} }

// lost notes a call that got no answer, found one that got any.
func (p *pulse) lost() { p.set(true, time.Time{}) }

func (p *pulse) found() { p.set(false, time.Time{}) }

func (p *pulse) set(suspect bool, until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.suspect, p.until = suspect, until
}

func (p *pulse) state(now time.Time) (suspect, resting bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.suspect, p.suspect && now.Before(p.until)
}

// check tells whether the provider is worth a call. ask gets a sign of life
// out of it; those who come meanwhile share what it finds.
func (p *pulse) check(ctx context.Context, c *Config, ask func(context.Context) error) bool {
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
	bounded, cancel := context.WithTimeout(ctx, min(pulseTimeout, c.Timeout/4))
	defer cancel()
	err := ask(bounded)
	switch {
	case err == nil:
		p.found()
	case ctx.Err() == nil:
		p.set(true, c.Now().Add(pulsePause))
	}
	return err == nil
}
