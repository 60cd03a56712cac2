package vault

import (
	"errors"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

const (
	// openAfter is how many failures in a row open a circuit.
	openAfter = 3
	// openAfterPaths is how many different paths must fail in a row, with
	// Vault's own words, for that to be an outage of the server: one broken
	// database behind one engine is not.
	openAfterPaths = 5
	// probeEvery is how often an open circuit lets one request through.
	probeEvery = time.Second
	// comeBack is over how long those that were turned away are spread.
	comeBack = 2 * time.Second
	// longestOpen bounds what Retry-After can do to all volumes of a node.
	longestOpen = time.Minute
	maxCircuits = 1024
)

// outcome is what one request says about its server's health.
type outcome int

const (
	nothingSaid outcome = iota // the request failed on our side
	answered
	brokenPath // status 500 with Vault's words: something behind this path
	outage
)

// errNotAsked is in the error of a request that was not made.
var errNotAsked = errors.New("not asked, because this failed moments ago")

// circuit counts failures in a row. While it is open one request in a second
// goes through, and the first that is answered closes it.
type circuit struct {
	failures int
	open     bool
	probe    time.Time // of the next request that is let through
	last     error
}

// admit lets a request through, or tells when to come back. chance is from 0
// to 1.
func (c *circuit) admit(now time.Time, chance float64) error {
	if !c.open {
		return nil
	}
	if !now.Before(c.probe) {
		c.probe = now.Add(probeEvery*4/5 + time.Duration(chance*float64(probeEvery)*2/5))
		return nil
	}
	err := fault.New(fault.Of(c.last), "%w: %w", errNotAsked, c.last)
	err.RetryAfter = c.wait(now, chance)
	return err
}

// wait is when to come back: after the next probe, spread.
func (c *circuit) wait(now time.Time, chance float64) time.Duration {
	return max(0, c.probe.Sub(now)) + time.Duration(chance*float64(comeBack))
}

// fail counts a failure. after is how many in a row open the circuit.
func (c *circuit) fail(now time.Time, after int, retryAfter time.Duration, failure error) {
	c.failures++
	c.last = failure
	if c.failures < after && !c.open {
		return
	}
	next := now.Add(max(probeEvery, min(retryAfter, longestOpen)))
	if !c.open || next.After(c.probe) {
		c.probe = next
	}
	c.open = true
}

// breaker keeps a node's volumes from hammering a server that is down or
// recovering, or one broken path of a server that is well. A denial is an
// answer.
type breaker struct {
	mu     sync.Mutex
	server circuit
	byPath map[string]*circuit
	// broken are the paths that failed since the server last answered.
	broken map[string]struct{}
}

func (b *breaker) admit(now time.Time, chance float64, path string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.byPath[path]; c != nil {
		if err := c.admit(now, chance); err != nil {
			return err
		}
	}
	return b.server.admit(now, chance)
}

// record takes note of how a request went.
func (b *breaker) record(now time.Time, o outcome, path string, retryAfter time.Duration, failure error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch o {
	case answered:
		b.server, b.broken = circuit{}, nil
		delete(b.byPath, path)
	case brokenPath:
		b.pathBroke(now, path, failure)
	case outage:
		b.server.fail(now, openAfter, retryAfter, failure)
	}
}

func (b *breaker) pathBroke(now time.Time, path string, failure error) {
	if b.byPath == nil || len(b.byPath) >= maxCircuits {
		b.byPath = map[string]*circuit{}
	}
	if b.broken == nil || len(b.broken) >= maxCircuits {
		b.broken = map[string]struct{}{}
	}
	c := b.byPath[path]
	if c == nil {
		c = &circuit{}
		b.byPath[path] = c
	}
	c.fail(now, openAfter, 0, failure)
	b.broken[path] = struct{}{}
	switch wide := len(b.broken) >= openAfterPaths; {
	case wide:
		b.server.fail(now, 1, 0, failure)
	default: // it answers, if badly
		b.server = circuit{}
	}
}

// advise tells a caller whose own request failed when to come back, if that
// request opened a circuit or was a probe.
func (b *breaker) advise(failure error, now time.Time, chance float64, path string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var f *fault.Error
	if !errors.As(failure, &f) || f.RetryAfter > 0 {
		return
	}
	if b.server.open {
		f.RetryAfter = b.server.wait(now, chance)
	} else if c := b.byPath[path]; c != nil && c.open {
		f.RetryAfter = c.wait(now, chance)
	}
}
