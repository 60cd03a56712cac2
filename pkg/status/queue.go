package status

import (
	"time"

	"golang.org/x/time/rate"
	"k8s.io/client-go/util/workqueue"
)

// newQueue makes the queue of the workers, in which namespaces take turns: one with many volumes
// that change all the time does not block the others.
func newQueue() workqueue.TypedRateLimitingInterface[task] {
	return workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[task](500*time.Millisecond, 2*time.Minute),
		workqueue.TypedRateLimitingQueueConfig[task]{
			DelayingQueue: workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[task]{
				Queue: workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[task]{Queue: &turns{waiting: map[string][]task{}}}),
			}),
		})
}

// turns implements workqueue.Queue. The work queue holds its own lock around
// each call.
type turns struct {
	waiting map[string][]task
	order   []string // namespaces that have tasks, the next first
	count   int
}

// Touch implements workqueue.Queue.
func (q *turns) Touch(task) {}

// Len implements workqueue.Queue.
func (q *turns) Len() int { return q.count }

// Push implements workqueue.Queue.
func (q *turns) Push(t task) {
	if len(q.waiting[t.namespace]) == 0 {
		q.order = append(q.order, t.namespace)
	}
	q.waiting[t.namespace] = append(q.waiting[t.namespace], t)
	q.count++
}

// Pop implements workqueue.Queue.
func (q *turns) Pop() task {
	namespace := q.order[0]
	q.order = q.order[1:]
	tasks := q.waiting[namespace]
	if len(tasks) == 1 {
		delete(q.waiting, namespace)
	} else {
		q.waiting[namespace] = tasks[1:]
		q.order = append(q.order, namespace)
	}
	q.count--
	return tasks[0]
}

// buckets has one token bucket for each key. The caller holds a lock.
type buckets struct {
	every time.Duration
	burst int
	of    map[string]*rate.Limiter
}

func newBuckets(every time.Duration, burst int) *buckets {
	return &buckets{every, burst, map[string]*rate.Limiter{}}
}

// get makes the bucket if there is none.
func (b *buckets) get(key string) *rate.Limiter {
	l := b.of[key]
	if l == nil {
		l = rate.NewLimiter(rate.Every(b.every), b.burst)
		b.of[key] = l
	}
	return l
}

// forgetFull drops the full buckets, which are equal to new ones.
func (b *buckets) forgetFull(now time.Time) {
	for key, l := range b.of {
		if l.TokensAt(now) >= float64(b.burst) {
			delete(b.of, key)
		}
	}
}

// take takes a token of each bucket, or takes none and returns the time to wait.
func take(now time.Time, all ...*rate.Limiter) time.Duration {
	var taken []*rate.Reservation
	for _, l := range all {
		leave := l.ReserveN(now, 1)
		taken = append(taken, leave)
		if d := leave.DelayFrom(now); d > 0 {
			for _, t := range taken {
				t.CancelAt(now)
			}
			return d
		}
	}
	return 0
}
