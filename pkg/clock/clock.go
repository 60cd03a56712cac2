// Package clock takes moments over a restart of the driver. The wall clock may be
// set meanwhile, and Go's monotonic clock ends with the process and stands still
// while the node is suspended. The kernel's boot time does neither.
package clock

import "time"

// Boot gives the time since the node's boot, suspended time included, and the
// boot's id. An empty id means that it is not known.
type Boot func() (since time.Duration, id string)

// Stamp is a moment by both clocks. It is kept beside other moments, which mean
// something to a later process only together with it.
type Stamp struct {
	Wall   time.Time     `json:"wall,omitzero"`
	Boot   time.Duration `json:"boot,omitempty"`
	BootID string        `json:"bootID,omitempty"`
}

// At is the stamp of now. boot may be nil, and then a step of the wall clock over
// the restart goes unnoticed.
func At(now time.Time, boot Boot) Stamp {
	s := Stamp{Wall: now}
	if boot != nil {
		s.Boot, s.BootID = boot()
	}
	return s
}

// noise is the least step of the wall clock that counts. Below it are the clocks'
// own differences, and moments stay what they are to the nanosecond.
const noise = time.Second

// Written is a moment as the wall clock of the stamp has it. A moment of this
// process may have been taken before the clock was set.
func (s Stamp) Written(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	written := s.Wall.Round(0).Add(t.Sub(s.Wall))
	if written.Sub(t.Round(0)).Abs() < noise {
		return t.Round(0)
	}
	return written
}

// elapsed is how much time has passed since an earlier stamp.
func (s Stamp) elapsed(then Stamp) time.Duration {
	passed := s.Wall.Round(0).Sub(then.Wall.Round(0))
	if s.BootID != "" && s.BootID == then.BootID {
		passed = s.Boot - then.Boot
	}
	return max(0, passed)
}

// step is by how much the wall clock was set since an earlier stamp.
func (s Stamp) step(then Stamp) time.Duration {
	if then.Wall.IsZero() { // written by a driver that kept none
		return 0
	}
	step := s.Wall.Round(0).Sub(then.Wall.Round(0)) - s.elapsed(then)
	if step.Abs() < noise {
		return 0
	}
	return step
}

// Restored gives the moments that were written with an earlier stamp, as far
// from now as they are, whatever became of the wall clock. They have a monotonic
// part, so that a later step does not move them either.
func (s Stamp) Restored(then Stamp) func(time.Time) time.Time {
	step := s.step(then)
	return func(t time.Time) time.Time {
		if t.IsZero() {
			return t
		}
		return s.Wall.Add(t.Sub(s.Wall.Round(0)) + step)
	}
}

// SetForward is by how much the wall clock was set forward since an earlier
// stamp. By so much Restored gives the fixed end of a certificate too late, if
// the clock was wrong before and is right now.
func (s Stamp) SetForward(then Stamp) time.Duration { return max(0, s.step(then)) }
