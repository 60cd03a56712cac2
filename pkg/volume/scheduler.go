package volume

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// Scheduler holds one due time per volume, and hands what is due to a bounded
// number of workers. Each provider has a lane of its own, so that a store that
// hangs holds up its own volumes only.
type Scheduler struct {
	mu    sync.Mutex
	lanes map[string]*lane
	index map[string]*dueItem
	wake  chan struct{} // holds a value when what comes next may have changed
}

// lane is one heap, and how many of its volumes are being worked on.
type lane struct {
	name  string
	queue dueQueue
	busy  int
	moved time.Time // when work on a volume last began or ended
}

// NewScheduler starts nothing; Run does the work.
func NewScheduler() *Scheduler {
	return &Scheduler{lanes: map[string]*lane{}, index: map[string]*dueItem{}, wake: make(chan struct{}, 1)}
}

type dueItem struct {
	id   string
	at   time.Time
	pos  int
	lane *lane
}

// Set makes the volume due at a time in its provider's lane, in place of any
// earlier due time.
func (s *Scheduler) Set(id, provider string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(id, provider, at)
}

// Hasten makes the volume due at a time, unless it is due earlier anyway.
func (s *Scheduler) Hasten(id, provider string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if it, ok := s.index[id]; !ok || at.Before(it.at) {
		s.set(id, provider, at)
	}
}

// set is called with mu held.
func (s *Scheduler) set(id, provider string, at time.Time) {
	it, ok := s.index[id]
	if ok && it.lane.name == provider {
		it.at = at
		heap.Fix(&it.lane.queue, it.pos)
	} else {
		if ok {
			s.remove(it)
		}
		l, ok := s.lanes[provider]
		if !ok {
			l = &lane{name: provider}
			s.lanes[provider] = l
		}
		it = &dueItem{id: id, at: at, lane: l}
		s.index[id] = it
		heap.Push(&l.queue, it)
	}
	s.nudge()
}

// Remove forgets the volume's due time.
func (s *Scheduler) Remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if it, ok := s.index[id]; ok {
		s.remove(it)
	}
}

func (s *Scheduler) remove(it *dueItem) {
	heap.Remove(&it.lane.queue, it.pos)
	delete(s.index, it.id)
	s.tidy(it.lane)
}

// tidy forgets a lane that nobody uses: anybody may make up providers' names.
func (s *Scheduler) tidy(l *lane) {
	if l.busy == 0 && len(l.queue) == 0 {
		delete(s.lanes, l.name)
	}
}

func (s *Scheduler) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run hands each due volume to do, in at most so many goroutines for each
// provider, until ctx ends. It returns when the last do has.
func (s *Scheduler) Run(ctx context.Context, workers int, do func(ctx context.Context, id string)) error {
	var g sync.WaitGroup
	defer g.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		it, wait := s.next(time.Now(), workers)
		if it != nil {
			g.Go(func() {
				defer s.done(it.lane)
				do(ctx, it.id)
			})
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
		}
	}
	return nil
}

// next takes the volume that has been due for the longest in a lane with a
// free worker, or says how long to wait.
func (s *Scheduler) next(now time.Time, workers int) (*dueItem, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first *dueItem
	for _, l := range s.lanes {
		if l.busy < workers && len(l.queue) > 0 && (first == nil || l.queue[0].at.Before(first.at)) {
			first = l.queue[0]
		}
	}
	if first == nil {
		return nil, time.Hour
	}
	if wait := first.at.Sub(now); wait > 0 {
		return nil, wait
	}
	heap.Pop(&first.lane.queue)
	delete(s.index, first.id)
	first.lane.busy++
	first.lane.moved = now
	return first, 0
}

// done gives the lane's worker back.
func (s *Scheduler) done(l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.busy--
	l.moved = time.Now()
	s.tidy(l)
	s.nudge()
}

// Stalled is for how long nothing has moved in a lane in which a volume is due.
// A lane that is merely behind, because its store hangs, is not stalled: all
// work is bounded in time.
func (s *Scheduler) Stalled(now time.Time) (longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lanes {
		if len(l.queue) > 0 {
			longest = max(longest, min(now.Sub(l.queue[0].at), now.Sub(l.moved)))
		}
	}
	return longest
}

// dueQueue implements heap.Interface, soonest first.
type dueQueue []*dueItem

func (q dueQueue) Len() int           { return len(q) }
func (q dueQueue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q dueQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].pos, q[j].pos = i, j
}

func (q *dueQueue) Push(x any) {
	it := x.(*dueItem)
	it.pos = len(*q)
	*q = append(*q, it)
}

func (q *dueQueue) Pop() any {
	old := *q
	it := old[len(old)-1]
	*q = old[:len(old)-1]
	return it
}
