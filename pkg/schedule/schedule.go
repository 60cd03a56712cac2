// Package schedule does work on volumes when it is due. Each store has its own queue,
// in which the tenants take turns.
package schedule

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// Where names the store and the tenant of work on a volume.
type Where struct {
	// Store is a server and a namespace in it, or the name of a plugin.
	Store string
	// Namespace is the Kubernetes namespace of the pod.
	Namespace string
}

// Work is what Run does with the volumes that are due.
type Work struct {
	// Workers bounds the concurrent work for one store. The first volume of a
	// Kubernetes namespace never waits for another namespace, so there may be one more
	// for each namespace.
	Workers int
	// Limit bounds the work on one volume. After it the worker continues with another
	// volume, even if Do does not return.
	Limit time.Duration
	// Do works on one volume. Calls for one volume never overlap.
	Do func(ctx context.Context, id string)
	// Late is called if Do does not return in time.
	Late func(id string)
}

// stopWait is how long Run waits for work that should end with its context.
const stopWait = 10 * time.Second

// Scheduler has one due time for each volume, and does the work when it is due. Each
// store has a queue. Within a queue the Kubernetes namespaces take turns: the next one
// is the namespace with the fewest running volumes, and among those the one whose last
// turn was earliest. Within a namespace, the volume that became due first is next.
type Scheduler struct {
	mu     sync.Mutex
	work   Work
	queues map[string]*queue
	tasks  map[string]*task
	turns  int       // so far
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
	busy      int // workers
	late      int // work that has not ended in time, without a worker
	turn      int
}

// task is a volume that is due at some time, or running, or both.
type task struct {
	id      string
	due     bool
	at      time.Time
	where   Where
	running bool
	tenant  *tenant // whose heap has the task; nil while it is running
	pos     int
}

// job is one run of the work on a task.
type job struct {
	*task
	tenant *tenant
	worker bool // the job has a worker
}

// New makes a Scheduler. It starts nothing; Run does the work.
func New() *Scheduler {
	return &Scheduler{queues: map[string]*queue{}, tasks: map[string]*task{}, wake: make(chan struct{}, 1)}
}

// Set makes the volume due at a time, instead of its earlier due time. A running
// volume is due again after its work.
func (s *Scheduler) Set(id string, w Where, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(id, w, at)
}

// Hasten makes the volume due at a time, unless it is due earlier.
func (s *Scheduler) Hasten(id string, w Where, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.tasks[id]; t == nil || !t.due || at.Before(t.at) {
		s.set(id, w, at)
	}
}

// Remove removes the volume's due time.
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

// requeue puts a task into the heap of its tenant if it is due and not running, and
// removes it if it is neither.
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

// tidy removes a tenant and a queue without volumes: a class can name any store, so
// there would be more and more of them.
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

// Run does the work until ctx ends. It returns when all work has ended, at the latest
// stopWait after ctx.
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

// do works on one volume. After the limit it frees the worker.
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

// next begins the task whose turn it is, or returns how long to wait for one.
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

// mayBegin reports whether there is a worker for one more volume of the tenant.
func (s *Scheduler) mayBegin(n *tenant) bool {
	return !s.isHung(n) && (n.busy == 0 || n.queue.busy < s.work.Workers)
}

// isHung reports whether so much of a tenant's work has not ended in time that no more
// begins.
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

// free frees the worker of work that has not ended in time. It returns false if the
// work has ended.
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

// end ends a job.
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

// Stalled returns for how long no work has begun or ended in a queue with a volume
// that is due. A queue whose store hangs is late but not stalled, because all work is
// bounded in time. A queue in which only the volumes of hung namespaces wait counts as
// stalled only if no other queue moves: a restart would affect everyone.
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
