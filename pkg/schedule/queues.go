package schedule

import "time"

// Queue is how the work for one store stands.
type Queue struct {
	Store string
	// Namespaces have volumes in it, and Waiting of those wait for their time or
	// for a worker. Overdue are those whose time has come.
	Namespaces, Waiting, Overdue int
	// Running have a worker; Late have outlived theirs and have not ended.
	Running, Late int
	// NextAt is the first due time; zero for none.
	NextAt time.Time
}

// QueuesAt are the queues as they are at a moment.
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

// Due is when a volume is worked on.
type Due struct {
	Next    time.Time // zero for never
	Running bool
}

// Due are the due times of all volumes.
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
