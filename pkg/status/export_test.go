package status

// Volumes counts the volumes that the reporter knows of.
func (r *Reporter) Volumes() int {
	r.statuses.mu.Lock()
	defer r.statuses.mu.Unlock()
	return len(r.statuses.volumes)
}
