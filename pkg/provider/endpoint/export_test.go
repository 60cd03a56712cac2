package endpoint

// Known counts the namespaces, tenants and paths in the breaker's memory.
func (b *Breaker) Known() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.namespaces)
	for _, s := range b.namespaces {
		n += len(s.tenants)
		for _, t := range s.tenants {
			n += len(t.paths)
		}
	}
	return n
}
