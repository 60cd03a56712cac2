package akeyless

import "maps"

// change has the volume go on as another identity: the one of before an edit of
// the class, or a new one.
func (f *fetch) change(key identityKey) {
	v := f.volume
	v.mu.Lock()
	now := v.stand
	next, over := v.aside.Switch(&now, func(s *stand) bool { return s.group.key == key })
	if next == nil {
		fresh := v.nothing()
		next = &fresh
	}
	v.stand = *next
	v.mu.Unlock()
	f.giveUp(over)
}

// giveUp ends an identity of the volume's. The credentials are ended with the
// volume, since programs may still use them.
func (f *fetch) giveUp(s *stand) {
	if s == nil {
		return
	}
	s.readings.Close()
	f.volume.Owe(s.holder.takeAll())
	if s.group != f.volume.current().group {
		f.volume.Owe(f.groups.leave(s.group, f.volume.id))
	}
}

// giveUpOthers gives up what the files are no longer of.
func (f *fetch) giveUpOthers() {
	f.volume.mu.Lock()
	over := f.volume.aside.Take()
	f.volume.mu.Unlock()
	f.giveUp(over)
	if !f.request.Upkeep {
		f.volume.inFiles = f.spec.ids()
		f.forget()
	}
}

// forget drops the answers to what neither the class nor the files are of.
func (f *fetch) forget() {
	keep := f.spec.ids()
	maps.Copy(keep, f.volume.inFiles)
	s := f.volume.current()
	s.readings.Retain(keep)
	s.holder.forget(keep, f.began)
}
