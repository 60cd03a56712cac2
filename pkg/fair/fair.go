// Package fair shares places between those who ask for them, so that none of
// them can take all.
package fair

import (
	"context"
	"slices"
	"sync"
)

// Places bounds how much is done at once. The first place of each party never
// waits for another party; what is free beyond that goes to those with the
// fewest, in the order in which they came. A party is whoever must not wait
// for another one: a tenant, a plugin.
type Places struct {
	most, each int

	mu      sync.Mutex
	taken   int
	of      map[string]int
	waiting []*waiter
}

type waiter struct {
	party string
	ready chan struct{} // closed once it has a place
}

// New makes so many places, of which one party gets so many at the most. Where
// others hold all of them there is one more for each party that has none.
func New(most, each int) *Places {
	return &Places{most: most, each: each, of: map[string]int{}}
}

// Each is how many places one party gets at the most.
func (p *Places) Each() int { return p.each }

// Take waits for a place, which the caller gives back with Give.
func (p *Places) Take(ctx context.Context, party string) error {
	p.mu.Lock()
	if p.free(party) {
		p.grant(party)
		p.mu.Unlock()
		return nil
	}
	w := &waiter{party, make(chan struct{})}
	p.waiting = append(p.waiting, w)
	p.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.waiting, w); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	} else {
		p.give(party) // it came too late
	}
	return ctx.Err()
}

// Give gives a place back.
func (p *Places) Give(party string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.give(party)
}

func (p *Places) free(party string) bool {
	return p.of[party] == 0 || p.taken < p.most && p.of[party] < p.each
}

func (p *Places) grant(party string) {
	p.taken++
	p.of[party]++
}

func (p *Places) give(party string) {
	p.taken--
	if p.of[party]--; p.of[party] == 0 {
		delete(p.of, party)
	}
	for {
		next := -1
		for i, w := range p.waiting {
			if p.free(w.party) && (next < 0 || p.of[w.party] < p.of[p.waiting[next].party]) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		w := p.waiting[next]
		p.waiting = slices.Delete(p.waiting, next, next+1)
		p.grant(w.party)
		close(w.ready)
	}
}
