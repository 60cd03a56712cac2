package akeyless

import (
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/provider/session"
)

// refused notes of an item, by its id, that the store refused it, if err says
// so.
func (f *fetch) refused(id string, err error) {
	if session.Refused(err) {
		session.NoteRefusal(err, id, f.now(), f.volume.readings, f.group.recent)
	}
}

// certain is why an item failed; nil if it did not. A refused read of a live
// volume counts as a denial where it is repeated some seconds later. Until then
// it is Unverified: the gateway may not know of a login or a rule yet.
func (f *fetch) certain(it *item) error {
	err := f.results[it].err
	switch {
	case err == nil:
		f.volume.doubts.Answered(it.id)
	case fault.Of(err) == fault.Denied && len(f.request.Current) > 0:
		if wait := f.volume.doubts.Refused(it.id, f.now()); wait > 0 {
			return session.Unverified(err, wait)
		}
	}
	return err
}

// refusedHeld tells that a credential that the service account shares was
// refused since it was made, and so is not for a pod that does not have it yet.
func (f *fetch) refusedHeld(m *minted) bool {
	if f.spec.scope != class.ScopeServiceAccount || len(f.request.Current) > 0 {
		return false
	}
	return !f.group.recent.Allows(m.Item, m.At)
}

// fallBack puts what the volume holds already in the place of what failed, so
// that what was had anew is not held up by it: a credential that was replaced
// in time must reach the file before the old one ends. It tells whether that
// makes a whole payload with something new in it.
func (f *fetch) fallBack() bool {
	fresh := false
	last := map[*item]result{}
	for _, it := range f.spec.items {
		r, answered := f.results[it]
		if answered && r.err == nil {
			fresh = true
			continue
		}
		var ok bool
		if last[it], ok = f.lastGood(it); !ok {
			return false
		}
	}
	for it, r := range last {
		f.results[it] = r
	}
	return fresh
}

// inFiles tells whether the volume holds all objects of an item, but those that
// may be missing. What the store refuses gets into no other file.
func (f *fetch) inFiles(it *item) bool {
	for _, o := range f.spec.objects {
		has := func(v provider.Version) bool { return v.ID == o.file }
		if o.item == it && !o.optional && !slices.ContainsFunc(f.request.Current, has) {
			return false
		}
	}
	return len(f.request.Current) > 0
}

// lastGood is what the volume's file holds of an item. When it is tried again
// is the caller's to say, but a credential is not waited for to its end.
func (f *fetch) lastGood(it *item) (result, bool) {
	if !f.inFiles(it) {
		return result{}, false
	}
	if m := f.holder().get(it.id); m != nil && m.has(it.keys) {
		r := resultOf(m)
		r.due = f.halfway(m.Ends)
		return r, m.alive(f.now())
	}
	rd := f.volume.readings.Held(it.id)
	if !rd.answers(it) || (rd.Absent && !f.optional(it)) {
		return result{}, false
	}
	r := f.result(rd)
	r.due = time.Time{}
	return r, true
}

func (f *fetch) halfway(end time.Time) time.Time {
	now := f.now()
	return now.Add(end.Sub(now) / 2)
}
