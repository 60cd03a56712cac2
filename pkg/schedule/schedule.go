// Package schedule does work on volumes when it is due, for one store after the
// other and in turns between tenants.
package schedule

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// Where says where the work on a volume goes, and for whom it is done.
type Where struct {
	// Store is a server and a namespace in it, or the name of a plugin.
	Store string
	// Namespace is the Kubernetes namespace of the pod.
	Namespace string
}

// Work is what Run does with the volumes that are due.
type Work struct {
	// Workers bounds how many volumes of one store are worked on at once. The
	// first of each Kubernetes namespace never waits for those of another, so
	// there may be one more for each namespace that the store serves.
	Workers int
	// Limit bounds the work on one volume. After that its worker takes up
	// another one, even if Do does not return.
	Limit time.Duration
	// Do works on one volume. It is not called for a volume for which it has
	// not returned yet.
	Do func(ctx context.Context, id string)
	// Late is told of a volume for which Do did not return in time.
	Late func(id string)
}

// stopWait is how long Run waits for work that should end with its context.
const stopWait = 10 * time.Second

// Scheduler holds one due time for each volume, and does the work when it is
// due. Each store has a queue. Within a queue the Kubernetes namespaces take
// turns: it is the turn of the one with the fewest volumes being worked on, and
// among those of the one that had its last turn first. Within a namespace the
// volume that was due first comes first.
type Scheduler struct {
	mu     sync.Mutex
	work   Work
	queues map[string]*queue
	tasks  map[string]*task
	turns  int       // taken so far
	moved  time.Time // when work last began or ended
	wake   chan struct{}
}

// queue is the work for one store.
type queue struct {
	store   string
	tenants map[string]*tenant
	busy    int
	moved   time.Time
}

// tenant is the work of one Kubernetes namespace for one store.
type tenant struct {
	queue     *queue
	namespace string
	due       dueTasks
	busy      int // its workers
	late      int // work that has outlived its worker
	turn      int
}

// task is a volume that is due at some time, or is being worked on, or both.
type task struct {
	id      string
	due     bool
	at      time.Time
	where   Where
	running bool
	tenant  *tenant // in whose heap it is; nil while it is running
	pos     int
}

// job is one piece of work on a task.
type job struct {
	*task
	tenant *tenant
	worker bool // whether it has one
}

// New starts nothing; Run does the work.
func New() *Scheduler {
	return &Scheduler{queues: map[string]*queue{}, tasks: map[string]*task{}, wake: make(chan struct{}, 1)}
}

// Set makes the volume due at a time, in place of any earlier due time. A
// volume that is being worked on is taken up again after that.
func (s *Scheduler) Set(id string, w Where, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(id, w, at)
}

// Hasten makes the volume due at a time, unless it is due earlier anyway.
func (s *Scheduler) Hasten(id string, w Where, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[id]; t == nil || !t.due || at.Before(t.at) {
		s.set(id, w, at)
	}
}

// Remove forgets the volume's due time.
func (s *Scheduler) Remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.tasks[id]
	if t == nil {
		return
	}
	t.due = false
	s.requeue(t)
}

func (s *Scheduler) set(id string, w Where, at time.Time) {
	t := s.tasks[id]
	if t == nil {
		t = &task{id: id}
		s.tasks[id] = t
	}
	t.due, t.where, t.at = true, w, at
	s.requeue(t)
	s.nudge()
}

// requeue puts a task where it belongs: into the heap of its tenant if it is due
// and not running. A task that is neither is forgotten.
func (s *Scheduler) requeue(t *task) {
	if old := t.tenant; old != nil {
		heap.Remove(&old.due, t.pos)
		t.tenant = nil
		defer s.tidy(old)
	}
	switch {
	case t.running:
	case t.due:
		t.tenant = s.tenant(t.where)
		heap.Push(&t.tenant.due, t)
	default:
		delete(s.tasks, t.id)
	}
}

func (s *Scheduler) tenant(w Where) *tenant {
	q := s.queues[w.Store]
	if q == nil {
		q = &queue{store: w.Store, tenants: map[string]*tenant{}}
		s.queues[w.Store] = q
	}
	n := q.tenants[w.Namespace]
	if n == nil {
		n = &tenant{queue: q, namespace: w.Namespace}
		q.tenants[w.Namespace] = n
	}
	return n
}

// tidy forgets a tenant and a queue without volumes: classes name any store.
func (s *Scheduler) tidy(n *tenant) {
	if len(n.due)+n.busy+n.late == 0 {
		delete(n.queue.tenants, n.namespace)
	}
	if len(n.queue.tenants) == 0 {
		delete(s.queues, n.queue.store)
	}
}

func (s *Scheduler) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run does the work until ctx ends. It returns when all work has, or stopWait
// after ctx ended.
func (s *Scheduler) Run(ctx context.Context, w Work) error {
	s.mu.Lock()
	s.work = w
	s.mu.Unlock()
	var running sync.WaitGroup
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		j, wait := s.next(time.Now())
		if j != nil {
			running.Go(func() { s.do(ctx, j) })
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
		}
	}
	ended := make(chan struct{})
	go func() { running.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(stopWait):
	}
	return nil
}

// do works on one volume. Its worker is free again at the limit at the latest.
func (s *Scheduler) do(ctx context.Context, j *job) {
	defer s.end(j)
	limited, cancel := context.WithTimeout(ctx, s.work.Limit)
	defer cancel()
	stop := context.AfterFunc(limited, func() {
		if s.free(j) && ctx.Err() == nil {
			s.work.Late(j.id)
		}
	})
	defer stop()
	s.work.Do(limited, j.id)
}

// next takes the task whose turn it is, or says how long to wait for one.
func (s *Scheduler) next(now time.Time) (*job, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var next *tenant
	wait := time.Hour
	for _, q := range s.queues {
		for _, n := range q.tenants {
			if len(n.due) == 0 || !s.mayBegin(n) {
				continue
			}
			if until := n.due[0].at.Sub(now); until > 0 {
				wait = min(wait, until)
			} else if next == nil || n.before(next) {
				next = n
			}
		}
	}
	if next == nil {
		return nil, wait
	}
	return s.begin(next, now), 0
}

// mayBegin tells whether there is a worker for one more of the tenant.
func (s *Scheduler) mayBegin(n *tenant) bool {
	return !s.isHung(n) && (n.busy == 0 || n.queue.busy < s.work.Workers)
}

// isHung tells whether so much of a tenant's work has not ended in time that no
// more is begun.
func (s *Scheduler) isHung(n *tenant) bool { return n.busy+n.late >= 2*s.work.Workers }

func (n *tenant) before(other *tenant) bool {
	if n.busy != other.busy {
		return n.busy < other.busy
	}
	return n.turn < other.turn
}

func (s *Scheduler) begin(n *tenant, now time.Time) *job {
	t, _ := heap.Pop(&n.due).(*task)
	t.tenant, t.running, t.due = nil, true, false
	s.turns++
	n.turn = s.turns
	n.busy++
	n.queue.busy++
	n.queue.moved, s.moved = now, now
	return &job{task: t, tenant: n, worker: true}
}

// free takes the worker from work that has not ended in time. It answers false
// if the work has ended.
func (s *Scheduler) free(j *job) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !j.worker {
		return false
	}
	j.worker = false
	j.tenant.busy--
	j.tenant.queue.busy--
	j.tenant.late++
	s.nudge()
	return true
}

// end is called once the work has ended.
func (s *Scheduler) end(j *job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j.worker {
		j.worker = false
		j.tenant.busy--
		j.tenant.queue.busy--
	} else {
		j.tenant.late--
	}
	s.moved = time.Now()
	j.tenant.queue.moved = s.moved
	j.running = false
	s.requeue(j.task)
	s.tidy(j.tenant)
	s.nudge()
}

// Stalled is for how long nothing has moved in a queue in which a volume is
// due. A queue that is merely behind, because its store hangs, is not stalled:
// all work is bounded in time. Nor is one in which only the volumes wait whose
// namespace has too much work that does not end, as long as others go on: a
// restart would be everyone's.
func (s *Scheduler) Stalled(now time.Time) (longest time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.queues {
		for _, n := range q.tenants {
			if len(n.due) == 0 {
				continue
			}
			moved := q.moved
			if s.isHung(n) {
				moved = s.moved
			}
			longest = max(longest, min(now.Sub(n.due[0].at), now.Sub(moved)))
		}
	}
	return longest
}

// dueTasks implements heap.Interface, soonest first.
type dueTasks []*task

func (q dueTasks) Len() int           { return len(q) }
func (q dueTasks) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q dueTasks) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].pos, q[j].pos = i, j
}

// Push implements heap.Interface.
func (q *dueTasks) Push(x any) {
	t, _ := x.(*task)
	t.pos = len(*q)
	*q = append(*q, t)
}

// Pop implements heap.Interface.
func (q *dueTasks) Pop() any {
	old := *q
	t := old[len(old)-1]
	*q = old[:len(old)-1]
	return t
}
