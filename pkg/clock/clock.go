// Package clock preserves moments across a restart of the driver. The wall clock may be set
// meanwhile, and Go's monotonic clock ends with the process and stops while the node is suspended.
// Neither affects the kernel's boot time. Earliest compares moments of which some may be unknown.
package clock

import "time"

// Boot returns the time since the node's boot, suspended time included, and the boot's id. An empty
// id means that the time is unknown.
type Boot func() (since time.Duration, id string)

// Stamp is a moment by both clocks. The driver saves it beside other moments; a later process needs
// it to interpret them.
type Stamp struct {
	Wall   time.Time     `json:"wall,omitzero"`
	Boot   time.Duration `json:"boot,omitempty"`
	BootID string        `json:"bootID,omitempty"`
}

// At returns the stamp of now. With a nil boot, a step of the wall clock during the restart goes
// unnoticed.
func At(now time.Time, boot Boot) Stamp {
	s := Stamp{Wall: now}
	if boot != nil {
		s.Boot, s.BootID = boot()
	}
	return s
}

// noise is the smallest step of the wall clock that counts. Smaller steps are differences between
// the clocks, and moments stay the same to the nanosecond.
const noise = time.Second

// Written converts a moment to the stamp's wall clock. A moment of this process may be older than a
// step of the wall clock.
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

// elapsed is the time between an earlier stamp and s.
func (s Stamp) elapsed(then Stamp) time.Duration {
	passed := s.Wall.Round(0).Sub(then.Wall.Round(0))
	if s.BootID != "" && s.BootID == then.BootID {
		passed = s.Boot - then.Boot
	}
	return max(0, passed)
}

// step is by how much the wall clock was set between an earlier stamp and s.
func (s Stamp) step(then Stamp) time.Duration {
	if then.Wall.IsZero() { // written by a driver without stamps
		return 0
	}
	step := s.Wall.Round(0).Sub(then.Wall.Round(0)) - s.elapsed(then)
	if step.Abs() < noise {
		return 0
	}
	return step
}

// Restored returns a function that converts moments written with an earlier stamp. It keeps their
// distance from now, even if the wall clock was set meanwhile. The results have a monotonic part,
// so that a later step does not move them either.
func (s Stamp) Restored(then Stamp) func(time.Time) time.Time {
	step := s.step(then)
	return func(t time.Time) time.Time {
		if t.IsZero() {
			return t
		}
		return s.Wall.Add(t.Sub(s.Wall.Round(0)) + step)
	}
}

// SetForward is by how much the wall clock was set forward since an earlier stamp. If the clock was
// wrong before and is right now, Restored returns the expiry of a certificate too late by this
// time.
func (s Stamp) SetForward(then Stamp) time.Duration { return max(0, s.step(then)) }

// Earliest is the first of the moments that is not zero.
func Earliest(moments ...time.Time) time.Time {
	var first time.Time
	for _, m := range moments {
		if !m.IsZero() && (first.IsZero() || m.Before(first)) {
			first = m
		}
	}
	return first
}
