package vault

import (
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// noteRefusal has nobody given any more what the store has just refused.
func (f *fetch) noteRefusal(r *request, err error) {
	id := r.id
	if session.IsOwn(err) {
		id = session.Everything
	}
	now, g := f.now(), f.volume.currentGroup()
	f.volume.answers().Refuse(id, now)
	g.recent.Refuse(id, now)
	g.recent.DropRefused()
}

// refusedHeld tells that a credential that the service account shares was
// refused since it was made, and so is not for a pod that does not have it yet.
func (f *fetch) refusedHeld(h *holder, r *request, c *held) bool {
	if h == f.volume.holder || len(f.request.Current) > 0 {
		return false
	}
	return !f.volume.currentGroup().recent.Allows(r.id, c.asked)
}
