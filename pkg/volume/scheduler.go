package volume

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// Scheduler holds one due time per volume in one heap, and hands what is due
// to a bounded pool of workers.
type Scheduler struct {
	mu    sync.Mutex
	queue dueQueue
	index map[string]*dueItem
	wake  chan struct{} // holds a value when the heap's head may have changed
}

// NewScheduler starts nothing; Run does the work.
func NewScheduler() *Scheduler {
	return &Scheduler{index: map[string]*dueItem{}, wake: make(chan struct{}, 1)}
}

type dueItem struct {
	id  string
	at  time.Time
	pos int
}

// Set makes the volume due at a time, in place of any earlier due time.
func (s *Scheduler) Set(id string, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if it, ok := s.index[id]; ok {
		it.at = at
		heap.Fix(&s.queue, it.pos)
	} else {
		it := &dueItem{id: id, at: at}
		s.index[id] = it
		heap.Push(&s.queue, it)
	}
	s.nudge()
}

// Remove forgets the volume's due time.
func (s *Scheduler) Remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if it, ok := s.index[id]; ok {
		heap.Remove(&s.queue, it.pos)
		delete(s.index, id)
	}
}

func (s *Scheduler) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run hands each due volume to do, in workers goroutines, until ctx ends. It
// returns when the last do has.
func (s *Scheduler) Run(ctx context.Context, workers int, do func(ctx context.Context, id string)) error {
	ids := make(chan string)
	var g errgroup.Group
	for range workers {
		g.Go(func() error {
			for id := range ids {
				do(ctx, id)
			}
			return nil
		})
	}
	s.dispatch(ctx, ids)
	close(ids)
	return g.Wait()
}

func (s *Scheduler) dispatch(ctx context.Context, ids chan<- string) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		id, wait := s.next(time.Now())
		if id != "" {
			select {
			case ids <- id:
				continue
			case <-ctx.Done():
				return
			}
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
			return
		}
	}
}

// next takes the first volume that is due, or says how long to wait.
func (s *Scheduler) next(now time.Time) (string, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return "", time.Hour
	}
	head := s.queue[0]
	if wait := head.at.Sub(now); wait > 0 {
		return "", wait
	}
	heap.Pop(&s.queue)
	delete(s.index, head.id)
	return head.id, 0
}

// overdue is how long the head of the queue has been due.
func (s *Scheduler) overdue(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return 0
	}
	return max(now.Sub(s.queue[0].at), 0)
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
