package session

import (
	"errors"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

const (
	// failuresToOpen is how many failures in a row open a circuit.
	failuresToOpen = 3
	// placesToOpen is how many different places must break in a row, with the
	// store's own words for it: one broken database behind one secret is not
	// an outage of the store.
	placesToOpen = 5
	// probeInterval is how often an open circuit lets one request through.
	probeInterval = time.Second
	// returnSpread is over how long those that were turned away come back.
	returnSpread = 2 * time.Second
	// longestOpen bounds what one Retry-After does to all volumes of a node.
	longestOpen = time.Minute
	maxPlaces   = 1024
)

// Outcome is what one request says of the health of its server.
type Outcome int

// The outcomes of a request.
const (
	// NothingSaid is a failure on our side.
	NothingSaid Outcome = iota
	// Answered is any answer, a denial too.
	Answered
	// BrokenPlace is an answer that something behind the server is broken.
	BrokenPlace
	// Outage is no answer, or one that the server cannot answer now.
	Outage
)

// ErrNotAsked is in the error of a request that was not made.
var ErrNotAsked = errors.New("not asked, because this failed moments ago")

// Breaker keeps a node's volumes from hammering a server that is down or just
// recovering, or one broken place of a server that is well. A place is what a
// request asks for: a path, an item. The zero value lets everything pass.
type Breaker struct {
	mu     sync.Mutex
	server circuit
	places map[string]*circuit
	// broken are the places that broke since the server last answered.
	broken map[string]struct{}
}

// Admit lets a request pass, or says when to come back. chance is from 0 to 1.
func (b *Breaker) Admit(now time.Time, chance float64, place string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.places[place]; c != nil {
		if err := c.admit(now, chance); err != nil {
			return err
		}
	}
	return b.server.admit(now, chance)
}

// Record takes note of how a request went.
func (b *Breaker) Record(now time.Time, o Outcome, place string, retryAfter time.Duration, failure error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch o {
	case Answered:
		b.server, b.broken = circuit{}, nil
		delete(b.places, place)
	case BrokenPlace:
		b.broke(now, place, failure)
	case Outage:
		b.server.fail(now, failuresToOpen, retryAfter, failure)
	}
}

func (b *Breaker) broke(now time.Time, place string, failure error) {
	if b.places == nil || len(b.places) >= maxPlaces {
		b.places = map[string]*circuit{}
	}
	if b.broken == nil || len(b.broken) >= maxPlaces {
		b.broken = map[string]struct{}{}
	}
	c := b.places[place]
	if c == nil {
		c = &circuit{}
		b.places[place] = c
	}
	c.fail(now, failuresToOpen, 0, failure)
	b.broken[place] = struct{}{}
	if len(b.broken) >= placesToOpen {
		b.server.fail(now, 1, 0, failure)
		return
	}
	b.server = circuit{} // it answers, if badly
}

// Advise tells a caller whose own request failed when to come back, where that
// request opened a circuit or was a probe. The store's own word comes first.
func (b *Breaker) Advise(failure error, now time.Time, chance float64, place string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var f *fault.Error
	if !errors.As(failure, &f) || f.RetryAfter > 0 {
		return
	}
	if b.server.open {
		f.RetryAfter = b.server.wait(now, chance)
	} else if c := b.places[place]; c != nil && c.open {
		f.RetryAfter = c.wait(now, chance)
	}
}

// circuit counts failures in a row. While it is open one request in a second
// passes, and the first that is answered closes it.
type circuit struct {
	failures int
	open     bool
	probe    time.Time // of the next request that passes
	last     error
}

func (c *circuit) admit(now time.Time, chance float64) error {
	if !c.open {
		return nil
	}
	if !now.Before(c.probe) {
		c.probe = now.Add(probeInterval*4/5 + time.Duration(chance*float64(probeInterval)*2/5))
		return nil
	}
	err := fault.New(fault.Of(c.last), "%w: %w", ErrNotAsked, c.last)
	err.RetryAfter = c.wait(now, chance)
	return err
}

// wait is when to come back: after the next probe, spread.
func (c *circuit) wait(now time.Time, chance float64) time.Duration {
	return max(0, c.probe.Sub(now)) + time.Duration(chance*float64(returnSpread))
}

// fail counts a failure. after is how many in a row open the circuit.
func (c *circuit) fail(now time.Time, after int, retryAfter time.Duration, failure error) {
	c.failures++
	c.last = failure
	if c.failures < after && !c.open {
		return
	}
	next := now.Add(max(probeInterval, min(retryAfter, longestOpen)))
	if !c.open || next.After(c.probe) {
		c.probe = next
	}
	c.open = true
}
