package vault

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// everything is in refusals in place of a request where a login was refused.
const everything = ""

// maxRefused bounds what edits of classes can leave behind.
const maxRefused = 4096

// refusals are when the store last refused a request, by its id. What was
// answered before that is given to nobody any more. It stays in the files of
// the volumes that have it, which is for the class to say.
type refusals map[string]time.Time

// allow tells whether an answer that was asked for at a moment is newer than
// any refusal of it.
func (r refusals) allow(id string, asked time.Time) bool {
	return asked.After(r[id]) && asked.After(r[everything])
}

func (r refusals) add(id string, at time.Time) {
	if len(r) >= maxRefused {
		clear(r)
		id = everything
	}
	if at.After(r[id]) {
		r[id] = at
	}
}

// noteRefusal drops from memory what the store has just refused.
func (f *fetch) noteRefusal(r *request, err error) {
	id := r.id
	if session.IsOwn(err) {
		id = everything
	}
	now := f.now()
	f.volume.refuse(id, now)
	f.volume.currentGroup().refuse(id, now)
}

// refusedHeld tells that a credential that the service account shares was
// refused since it was made, and so is not for a pod that does not have it yet.
func (f *fetch) refusedHeld(h *holder, r *request, c *held) bool {
	if h == f.volume.holder || len(f.request.Current) > 0 {
		return false
	}
	return !f.volume.currentGroup().allows(r.id, c.asked)
}

// denied tells whether the store refused. A refusal that is not sure counts,
// since nothing is lost by asking again.
func denied(err error) bool {
	return err != nil && (fault.Of(err) == fault.Denied || fault.Of(err) == fault.Unverified)
}

func (v *volume) refuse(id string, at time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.refused.add(id, at)
}

func (g *group) refuse(id string, at time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused.add(id, at)
	for id, rd := range g.recent.All() {
		if !g.refused.allow(id, rd.asked) {
			g.recent.Drop(id)
		}
	}
}

// remember keeps a reading for the other volumes.
func (g *group) remember(id string, rd *reading) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refused.allow(id, rd.asked) {
		g.recent.Keep(id, rd)
	}
}

func (g *group) allows(id string, asked time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused.allow(id, asked)
}
