package volume

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

// dueTime is when a volume is worked on.
type dueTime struct {
	next    time.Time // zero for never
	running bool
}

// due are the due times of all volumes.
func (s *Scheduler) due() map[string]dueTime {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]dueTime, len(s.tasks))
	for id, t := range s.tasks {
		d := dueTime{running: t.running}
		if t.due {
			d.next = t.at
		}
		all[id] = d
	}
	return all
}
