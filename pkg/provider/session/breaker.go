package session

import (
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

const (
	// outagesToOpen is how many requests in a row must find no store.
	outagesToOpen = 3
	// placesToOpen is how many different places must break in a row, with the
	// store's own words for it: one broken database behind one secret is not
	// an outage of the store.
	placesToOpen = 5
	// probeInterval is how often an open circuit lets one request through.
	probeInterval = time.Second
	// returnSpread is over how long those that were turned away come back.
	returnSpread = 2 * time.Second
	// longestTrip bounds what one Retry-After does to all volumes of a node.
	longestTrip = time.Minute
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

// Breaker keeps a node's volumes from hammering a server that is down or just
// recovering. While the circuit is open one request in a second passes, and
// the first that is answered closes it. The zero value is closed.
type Breaker struct {
	mu      sync.Mutex
	outages int
	places  map[string]struct{}
	tripped bool
	// forPlaces tells that broken places opened it, not outages.
	forPlaces bool
	nextProbe time.Time
	cause     error
}

// Admit lets a request pass, or says when to come back.
func (b *Breaker) Admit(now time.Time, chance float64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.tripped {
		return nil
	}
	if !now.Before(b.nextProbe) {
		spread := time.Duration(chance * float64(probeInterval) * 2 / 5)
		b.nextProbe = now.Add(probeInterval*4/5 + spread)
		return nil
	}
	refusal := fault.New(fault.Of(b.cause), "not asked, because the server failed moments ago: %w", b.cause)
	refusal.RetryAfter = b.nextProbe.Sub(now) + time.Duration(chance*float64(returnSpread))
	return refusal
}

// Record takes note of how a request went. place is what BrokenPlace broke.
func (b *Breaker) Record(now time.Time, o Outcome, place string, retryAfter time.Duration, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch o {
	case Answered:
		b.reset()
	case BrokenPlace:
		b.broke(now, place, cause)
	case Outage:
		b.outages++
		if b.tripped || b.outages >= outagesToOpen {
			b.trip(now, retryAfter, cause)
		}
	}
}

func (b *Breaker) broke(now time.Time, place string, cause error) {
	if b.tripped && !b.forPlaces {
		b.reset() // it answers again, if only with this
	}
	if b.places == nil {
		b.places = map[string]struct{}{}
	}
	b.places[place] = struct{}{}
	if len(b.places) >= placesToOpen {
		b.forPlaces = true
		b.trip(now, 0, cause)
	}
}

func (b *Breaker) reset() {
	b.outages, b.places = 0, nil
	b.tripped, b.forPlaces, b.cause = false, false, nil
}

func (b *Breaker) trip(now time.Time, retryAfter time.Duration, cause error) {
	probe := now.Add(max(probeInterval, min(retryAfter, longestTrip)))
	if !b.tripped || probe.After(b.nextProbe) {
		b.nextProbe = probe
	}
	b.tripped, b.cause = true, cause
}
