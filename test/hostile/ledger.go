package main

import (
	"sync"
	"time"
)

// ledger records for one volume when values were written into the store, and when the volume showed
// them. Values are counted from 1.
type ledger struct {
	limit time.Duration // time that a value may take

	mu      sync.Mutex
	written map[int]time.Time
	seen    map[int]time.Time
	newest  int // seen
}

func newLedger(limit time.Duration) *ledger {
	return &ledger{limit: limit, written: map[int]time.Time{}, seen: map[int]time.Time{}}
}

func (l *ledger) wrote(value int, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.written[value] = at
}

// saw records that the volume had a value. Earlier values count as seen too.
func (l *ledger) saw(value int, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for ; l.newest < value; l.newest++ {
		l.seen[l.newest+1] = at
	}
}

// sum tells how many values came late or never, how long the slowest one took
// that came, and how many are not there but have time left.
func (l *ledger) sum(now time.Time) (missed int, worst time.Duration, open int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for value, at := range l.written {
		seen, ok := l.seen[value]
		switch {
		case ok:
			took := seen.Sub(at)
			worst = max(worst, took)
			if took > l.limit {
				missed++
			}
		case now.Sub(at) > l.limit:
			missed++
		default:
			open++
		}
	}
	return missed, worst, open
}

// values is how many were written.
func (l *ledger) values() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.written)
}
