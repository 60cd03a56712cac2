package volume

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/schedule"
)

// inbox is what came in for a volume since its worker last took it.
type inbox struct {
	credentials *Credentials // which kubelet passed last; nil for nothing new
	version     *string      // of the class, if another version made the payload
	fresh       bool         // a person asked for a read that bypasses caches
}

// deliver leaves what kubelet passed for the worker, if it is new. It answers
// false if the volume is not live.
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

// requestRefresh has the next refresh bypass caches, and come at a time at the
// latest. It answers whether the volume is live.
func (v *Volume) requestRefresh(at time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.inbox.fresh = true
	if v.state() != live {
		return false
	}
	v.m.scheduler.Hasten(v.id, v.where, at)
	return true
}

// deliverVersion leaves the class's version, empty for a class that cannot be
// used, for the worker, and makes the volume due at a time. It answers false if
// the volume is not live or has nothing to gain: that version made its payload,
// and it does not fail. The end of a first publish looks at the version too.
func (v *Volume) deliverVersion(ref class.Ref, version string, at time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	rec := v.record.Load()
	if v.identity.Class != ref || rec != nil && rec.madeBy(version) && rec.Failures == 0 {
		return false
	}
	v.inbox.version = &version
	if v.state() != live {
		return false
	}
	v.m.scheduler.Hasten(v.id, v.where, at)
	return true
}

// take empties the inbox, all of it or only of the credentials, which are on
// record from then on. The caller works on the volume.
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

// applyCredentials takes the credentials unless another goroutine works on the
// volume, which calls this when it has ended. A failed refresh may have failed
// for want of them, so it is due again.
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
	if v.state() == live {
		v.m.scheduler.Hasten(v.id, v.where, at)
	}
}

// schedule sets when the next refresh is due, and where it goes, if that is known:
// at once if it was asked for since the inbox was taken, or the class has another
// version than the one that made the payload.
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
