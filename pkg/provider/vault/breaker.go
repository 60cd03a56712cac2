package vault

import (
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

const (
	// openAfter is how many outages in a row open the circuit.
	openAfter = 3
	// openAfterPaths is how many different paths must fail in a row with
	// Vault's own words for it: one broken database behind one engine is not
	// an outage of the store.
	openAfterPaths = 5
	// probeEvery is how often an open circuit lets one request through.
	probeEvery = time.Second
	// comeBack is over how long those that were turned away are spread.
	comeBack = 2 * time.Second
	// longestOpen bounds what Retry-After can do to all volumes of a node.
	longestOpen = time.Minute
)

// outcome is what one request says about its server's health.
type outcome int

const (
	nothingSaid outcome = iota // the request failed on our side
	answered
	brokenPath // status 500 with Vault's words: something behind this path
	outage
)

// breaker keeps a node's volumes from hammering a server that is down or
// recovering. While it is open one request in a second goes through, and the
// first that is answered closes it. A denial is an answer.
type breaker struct {
	mu      sync.Mutex
	outages int
	paths   map[string]struct{} // broken in a row
	open    bool
	byPaths bool // it was broken paths that opened it
	probe   time.Time
	last    error // of the outage
}

// admit lets a request through, or tells when to come back. chance is from 0
// to 1.
func (b *breaker) admit(now time.Time, chance float64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.open {
		return nil
	}
	if !now.Before(b.probe) {
		b.probe = now.Add(probeEvery*4/5 + time.Duration(chance*float64(probeEvery)*2/5))
		return nil
	}
	err := fault.New(fault.Of(b.last), "not asked, because the server failed moments ago: %w", b.last)
	err.RetryAfter = b.probe.Sub(now) + time.Duration(chance*float64(comeBack))
	return err
}

// record takes note of how a request went.
func (b *breaker) record(now time.Time, o outcome, path string, retryAfter time.Duration, failure error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch o {
	case answered:
		b.close()
	case brokenPath:
		if b.open && !b.byPaths {
			b.close()
		}
		if b.paths == nil {
			b.paths = map[string]struct{}{}
		}
		b.paths[path] = struct{}{}
		if b.byPaths = len(b.paths) >= openAfterPaths; b.byPaths {
			b.trip(now, 0, failure)
		}
	case outage:
		if b.outages++; b.outages >= openAfter || b.open {
			b.trip(now, retryAfter, failure)
		}
	}
}

func (b *breaker) close() {
	b.outages, b.paths, b.open, b.byPaths, b.last = 0, nil, false, false, nil
}

// trip opens the circuit, or keeps it open.
func (b *breaker) trip(now time.Time, retryAfter time.Duration, failure error) {
	next := now.Add(max(probeEvery, min(retryAfter, longestOpen)))
	if !b.open || next.After(b.probe) {
		b.probe = next
	}
	b.open, b.last = true, failure
}
