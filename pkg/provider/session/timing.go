package session

import "time"

const (
	// renewalSpread is the part of a lifetime over which renewals are spread.
	renewalSpread = 0.08
	// soonest keeps a store that grants next to nothing from being asked
	// without a pause.
	soonest = time.Second
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

// twoThirds is when to replace what lives from start to end: at about two
// thirds of its life, and a little earlier by chance.
func twoThirds(start, end time.Time, chance float64) time.Time {
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

// nextIssue is when what was issued at a moment, to live for a while, may be
// issued again, whatever the store says on its life: a store that gives what is
// over at once is not asked without a pause. A short life that can be kept up
// with is replaced in time all the same.
func nextIssue(issued time.Time, life time.Duration) time.Time {
	if life < shortestLife {
		return issued.Add(issuePause)
	}
	return issued.Add(min(life/2, issuePause))
}

// isDue tells whether the moment has come to replace what ends at end. It is
// generous by a small part of the wait, because a scheduler with jitter may come
// that much early, and would have to come again.
func isDue(due, end, now time.Time) bool {
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

// leaseUnseen is how long a lease is taken to be there without a look at it:
// an operator may have revoked it.
const leaseUnseen = time.Hour

// fellShort tells whether a renewal gave less than was asked for, so that the
// maximum is near. The second is for the store's rounding.
func fellShort(asked, granted time.Duration) bool {
	return float64(granted+time.Second) < 0.9*float64(asked)
}
