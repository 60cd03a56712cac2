package status

// Volumes counts the volumes that the reporter knows of.
func (r *Reporter) Volumes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.volumes)
}
