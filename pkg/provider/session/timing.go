package session

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/clock"
)

const (
	// renewalSpread is the part of a lifetime over which renewals are spread.
	renewalSpread = 0.08
	// soonest keeps a store that grants next to nothing from being asked
	// without a pause.
	soonest = time.Second
	// ownShare and otherShare are the parts of an interval for which an answer
	// will do: for its own volume, with room for the scheduler's jitter, and
	// for other volumes of the same identity.
	ownShare   = 0.9
	otherShare = 0.5
	// earlySlack is a part of the last third of a lifetime, and so half as
	// much of the two thirds before it.
	earlySlack = 0.12
	// changeSlack is how long after an announced change the store is asked,
	// since it changes things on a tick of its own.
	changeSlack = 2 * time.Second
	// A fleet's nodes ask within changeSpread of the wait, and of the time.
	changeSpread        = 20
	longestChangeSpread = 10 * time.Second
)

// TwoThirds is when to replace what lives from start to end: at about two
// thirds of its life, and a little earlier by chance.
func TwoThirds(start, end time.Time, chance float64) time.Time {
	life := end.Sub(start)
	// Not life*2/3: a certificate may be good for longer than 146 years, and
	// twice that is more than a Duration holds.
	due := start.Add(life - life/3 - time.Duration(chance*renewalSpread*float64(life)))
	if least := start.Add(min(soonest, life/2)); due.Before(least) {
		return least
	}
	return due
}

const (
	// shortestLife is the least that a credential must live to be replaced in
	// time.
	shortestLife = 3 * time.Second
	// issuePause is between two issues of what lives long, or next to nothing.
	issuePause = 5 * time.Second
)

// NextIssue is when what was issued at a moment, to live for a while, may be
// issued again, whatever the store says on its life: a store that gives what is
// over at once is not asked without a pause. A short life that can be kept up
// with is replaced in time all the same.
func NextIssue(issued time.Time, life time.Duration) time.Time {
	if life < shortestLife {
		return issued.Add(issuePause)
	}
	return issued.Add(min(life/2, issuePause))
}

// IsDue tells whether the moment has come to replace what ends at end. It is generous by a small part of the wait, because a scheduler with
// jitter may come that much early, and would have to come again.
func IsDue(due, end, now time.Time) bool {
	slack := time.Duration(float64(max(0, end.Sub(due))) * earlySlack)
	return !now.Before(due.Add(-slack))
}

// AfterChange is when to ask for what the store, asked at one moment, said it
// would change at another.
func AfterChange(asked, at time.Time, chance float64) time.Time {
	spread := min(max(0, at.Sub(asked)/changeSpread), longestChangeSpread)
	return at.Add(changeSlack + time.Duration(chance*float64(spread)))
}

// UntilChange is when to ask again for a change that the store announced for a
// moment and has not made: soon, and less often the later it is.
func UntilChange(asked, at time.Time) time.Time {
	return asked.Add(max(changeSlack, asked.Sub(at)/2))
}

// longestUnread bounds for how long looks at a version stand for reads of the
// value: who may see the version of something need not be allowed to read it
// any longer.
const longestUnread = time.Hour

// VersionWillDo tells whether a look at the version will do for a value that was
// last read itself at a moment.
func VersionWillDo(read, now time.Time) bool { return now.Sub(read) < longestUnread }

// GoodForOwn tells whether an answer, asked for at a moment and due to be had
// again at another, will do for the volume that has it.
func GoodForOwn(asked, due, now time.Time) bool { return within(asked, due, now, ownShare) }

// GoodForOthers tells whether it will do for other volumes of the identity.
func GoodForOthers(asked, due, now time.Time) bool { return within(asked, due, now, otherShare) }

func within(asked, due, now time.Time, share float64) bool {
	return now.Before(asked.Add(time.Duration(share * float64(due.Sub(asked)))))
}

// leaseUnseen is how long a lease is taken to be there without a look at it:
// an operator may have revoked it.
const leaseUnseen = time.Hour

// dueOf is when an answer to a request is to be had again. Chance is spent on
// what has a lifetime.
func (s *Spec) dueOf(r *Request, k Kind, at, end time.Time, chance float64) time.Time {
	interval, again := s.Interval, false
	if r.Interval > 0 { // it stands on the object itself, so it is meant for what each look makes as well
		interval, again = r.Interval, true
	}
	return DueAt(k, at, end, interval, again, chance)
}

// readingDue is when a polled or static reading is to be had again.
func (s *Spec) readingDue(r *Request, rd *Reading) time.Time {
	if rd.Kind == Static { // but a rotation by hand shows within the interval
		return clock.Earliest(rd.Due, s.dueOf(r, Polled, rd.Asked, time.Time{}, 0))
	}
	return s.dueOf(r, Polled, rd.Asked, time.Time{}, 0)
}

// DueAt is when an answer is to be had again. again tells that the interval is
// meant for what each look makes, too.
func DueAt(k Kind, at, end time.Time, interval time.Duration, again bool, chance float64) time.Time {
	switch k {
	case Leased, Certificate:
		if !end.After(at) { // expired already, or of a lease that says nothing
			return at.Add(interval)
		}
		return TwoThirds(at, end, chance)
	case Static:
		return AfterChange(at, end, chance)
	case Once:
		if !again {
			return time.Time{}
		}
	}
	return at.Add(interval)
}

// fellShort tells whether a renewal gave less than was asked for, so that the
// maximum is near. The second is for the store's rounding.
func fellShort(asked, granted time.Duration) bool {
	return float64(granted+time.Second) < 0.9*float64(asked)
}

// recentEnough tells whether an answer that was asked for at a moment will do,
// for its own volume or for another of the same identity.
func recentEnough(k Kind, asked, due, now time.Time, own bool) bool {
	switch {
	case own && k == Static:
		return now.Before(due)
	case own:
		return GoodForOwn(asked, due, now)
	}
	return GoodForOthers(asked, due, now)
}
