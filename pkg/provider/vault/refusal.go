package vault

// refusedHeld tells that a credential that the service account shares was
// refused since it was made, and so is not for a pod that does not have it yet.
func (f *fetch) refusedHeld(h *holder, r *request, c *held) bool {
	if h == f.volume.holder || len(f.request.Current) > 0 {
		return false
	}
	return !f.volume.currentGroup().recent.Allows(r.id, c.asked)
}
