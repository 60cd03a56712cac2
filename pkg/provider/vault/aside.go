package vault

import (
	"context"

	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// stand is what a volume has under one identity.
type stand struct {
	group    *group
	holder   *holder
	readings *session.Answers[*reading]
	// spec is the class that was last answered in full, without its objects;
	// nil after a restart.
	spec *spec
}

// takeAside takes away what was set aside; nil if nothing was.
func (v *volume) takeAside() *stand {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.aside.Take()
}

// change has the volume go on under another identity of its pod: that which was
// set aside, or a new one.
func (f *fetch) change(key identityKey) {
	v := f.volume
	v.mu.Lock()
	now := &stand{v.group, v.holder, v.readings, v.answered}
	next, over := v.aside.Switch(now, func(s *stand) bool { return sameIdentity(s.group.key, key) })
	if next == nil {
		next = &stand{holder: newHolder(v.budget, v.owner), readings: v.noAnswers()}
	}
	v.group, v.holder, v.readings, v.answered = next.group, next.holder, next.readings, next.spec
	v.mu.Unlock()
	if over != nil {
		v.Owe(over.holder.takeTokens())
		v.Owe(f.groups.leave(over.group, v.id))
		over.readings.Close()
	}
}

// settle ends the earlier identity: the files are of the new one now. What was
// leased under the old lives out its time, as programs may still use it.
func (f *fetch) settle() {
	v := f.volume
	if s := v.takeAside(); s != nil {
		s.readings.Close()
		v.Owe(s.holder.takeTokens())
		v.Owe(f.groups.leave(s.group, v.id))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.answered = f.spec.withoutObjects()
}

// tend keeps alive what the files hold while the new identity gets no answer.
func (f *fetch) tend(ctx context.Context) {
	f.volume.mu.Lock()
	s := f.volume.aside.Kept()
	f.volume.mu.Unlock()
	if s == nil || s.spec == nil {
		return
	}
	e, err := f.endpoints.Get(ctx, s.spec.login.target, f.now())
	if err != nil {
		return
	}
	old := &fetch{Provider: f.Provider, request: f.request, spec: s.spec, volume: f.volume, endpoint: e, began: f.began, correlation: f.correlation}
	for _, id := range s.holder.ids() {
		if err := old.extend(ctx, s.holder, id); err != nil {
			f.config.Logger.Debug("a lease of before the class's edit was not renewed", "volume", f.request.Volume, "error", err)
		}
	}
}

// extend renews a lease if it is due and can be renewed, and makes nothing new.
func (f *fetch) extend(ctx context.Context, h *holder, id string) error {
	c := h.get(id)
	if c == nil || c.token == nil {
		return nil
	}
	kept, err := f.sustain(ctx, h, c.token)
	if err != nil || !kept || !c.answer.renewable || c.replace || !session.IsDue(c.due, c.ends, f.now()) {
		return err
	}
	next, err := f.renewLease(ctx, c)
	if next != nil {
		h.put(id, next)
	}
	return err
}
