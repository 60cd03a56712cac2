package schedule

// Known counts what the Scheduler remembers: queues, tenants and volumes.
func (s *Scheduler) Known() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.queues) + len(s.tasks)
	for _, q := range s.queues {
		n += len(q.tenants)
	}
	return n
}
