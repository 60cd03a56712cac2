package volume

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
)

// inbox has what arrived for a volume since its worker last emptied it.
type inbox struct {
	credentials *Credentials // that kubelet passed last; nil if they are on record
	version     *string      // of the class, if another version made the payload
	fresh       bool         // the next refresh bypasses caches, as a user asked
}

// deliver puts new credentials into the inbox. It returns false if the volume is not
// live.
func (v *Volume) deliver(c Credentials) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.state() != live {
		return false
	}
	known := v.inbox.credentials
	if known == nil {
		known = &v.record.Load().Credentials
	}
	if !c.Equal(*known) {
		v.inbox.credentials = &c
	}
	return true
}

// requestRefresh makes the volume due at a time, unless it is due earlier, and makes
// that refresh bypass caches. It returns false if the volume is not live.
func (v *Volume) requestRefresh(at time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.inbox.fresh = true
	return v.makeDue(at)
}

// deliverVersion puts the version of a class into the inbox, empty for a class that
// cannot be used, and makes the volume due at a time. It returns false if the volume
// is not live, or that version made its payload and it does not fail. The end of a
// first publish reads the version too.
func (v *Volume) deliverVersion(ref class.Ref, version string, at time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	rec := v.record.Load()
	if v.identity.Class != ref || rec != nil && rec.madeBy(version) && rec.Failures == 0 {
		return false
	}
	v.inbox.version = &version
	return v.makeDue(at)
}

// take empties the inbox, or removes only the credentials from it. It puts the
// credentials into the record. The caller works on the volume.
func (v *Volume) take(all bool) inbox {
	v.mu.Lock()
	in := v.inbox
	v.inbox.credentials = nil
	if all {
		v.inbox = inbox{}
	}
	if v.gone {
		in.credentials = nil
	}
	v.mu.Unlock()
	if rec := v.record.Load(); rec != nil && in.credentials != nil {
		next := *rec
		next.Credentials = *in.credentials
		v.record.Store(&next)
	}
	return in
}

// applyCredentials takes the credentials, unless another goroutine works on the
// volume: that one calls applyCredentials at its end. If the last refresh failed, the
// volume is due at once, because the old credentials may be the reason.
func (v *Volume) applyCredentials() {
	for {
		v.mu.Lock()
		pending := v.inbox.credentials != nil
		v.mu.Unlock()
		if !pending {
			return
		}
		select {
		case v.worker <- struct{}{}:
		default:
			return
		}
		in, rec := v.take(false), v.record.Load()
		if in.credentials != nil && rec != nil {
			_ = v.m.save(rec)
			if rec.Failures > 0 {
				v.hasten(time.Now())
			}
		}
		<-v.worker
	}
}

// hasten makes a live volume due at a time, unless it is due earlier.
func (v *Volume) hasten(at time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.makeDue(at)
}

// makeDue is hasten for a caller that holds the mutex. It returns false if the volume is
// not live.
func (v *Volume) makeDue(at time.Time) bool {
	if v.state() != live {
		return false
	}
	v.m.scheduler.Hasten(v.id, v.where, at)
	return true
}

// schedule sets the time and, if w has one, the store of the next refresh. The
// refresh is due at once if a user asked for it since the inbox was emptied, or if
// another version of the class made the payload.
func (v *Volume) schedule(w schedule.Where) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if w.Store != "" {
		v.where = w
	}
	rec := v.record.Load()
	if v.inbox.version != nil && rec.madeBy(*v.inbox.version) {
		v.inbox.version = nil
	}
	due := rec.DueAt
	if now := time.Now(); (v.inbox.fresh || v.inbox.version != nil) && due.After(now) {
		due = now
	}
	v.m.scheduler.Set(v.id, v.where, due)
}
