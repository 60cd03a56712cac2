package schedule

import "time"

// Queue describes the queue of one store.
type Queue struct {
	Store string
	// Namespaces is the number of namespaces with volumes in the queue. Waiting
	// volumes wait for their time or for a worker; Overdue of them are due.
	Namespaces, Waiting, Overdue int
	// Running volumes have a worker. Late is the number of volumes whose work has not
	// ended in time, and has no worker any more.
	Running, Late int
	// NextAt is the first due time; zero for none.
	NextAt time.Time
}

// QueuesAt describes the queues; now decides which volumes are due.
func (s *Scheduler) QueuesAt(now time.Time) []Queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Queue, 0, len(s.queues))
	for _, q := range s.queues {
		out := Queue{Store: q.store, Namespaces: len(q.tenants), Running: q.busy}
		for _, n := range q.tenants {
			out.Waiting += len(n.due)
			out.Late += n.late
			for _, t := range n.due {
				if !t.at.After(now) {
					out.Overdue++
				}
			}
			if len(n.due) > 0 && (out.NextAt.IsZero() || n.due[0].at.Before(out.NextAt)) {
				out.NextAt = n.due[0].at
			}
		}
		all = append(all, out)
	}
	return all
}

// Due is when a volume is due, and whether work on it runs.
type Due struct {
	Next    time.Time // zero for never
	Running bool
}

// Due returns the due times of all volumes.
func (s *Scheduler) Due() map[string]Due {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]Due, len(s.tasks))
	for id, t := range s.tasks {
		d := Due{Running: t.running}
		if t.due {
			d.Next = t.at
		}
		all[id] = d
	}
	return all
}
