package session

import "time"

const (
	// renewalSpread is the part of a lifetime over which renewals are spread.
	renewalSpread = 0.08
	// soonest is the least pause, for a store that grants very short lifetimes.
	soonest = time.Second
	// earlySlack is a part of the last third of a lifetime.
	earlySlack = 0.12
	// changeSlack is the delay of a read after an announced change, because stores
	// make changes at intervals of their own.
	changeSlack = 2 * time.Second
	// The nodes of a cluster spread their reads over 1/changeSpread of the wait, at
	// most longestChangeSpread.
	changeSpread        = 20
	longestChangeSpread = 10 * time.Second
)

// twoThirds returns when to replace a credential that is valid from start to end: after
// about two thirds of its lifetime, and earlier by a random part.
func twoThirds(start, end time.Time, chance float64) time.Time {
	life := end.Sub(start)
	// Not life*2/3: a certificate may be valid for more than 146 years, and twice
	// that overflows a Duration.
	due := start.Add(life - life/3 - time.Duration(chance*renewalSpread*float64(life)))
	if least := start.Add(min(soonest, life/2)); due.Before(least) {
		return least
	}
	return due
}

const (
	// shortestLife is the shortest lifetime of a credential that can be replaced in
	// time.
	shortestLife = 3 * time.Second
	// issuePause is the pause between two issues if the lifetime is long, or shorter
	// than shortestLife.
	issuePause = 5 * time.Second
)

// nextIssue returns the earliest time at which a credential may be issued again: a store
// that issues expired credentials must not be asked without a pause. A credential with a
// short lifetime, of at least shortestLife, is still replaced in time.
func nextIssue(issued time.Time, life time.Duration) time.Time {
	if life < shortestLife {
		return issued.Add(issuePause)
	}
	return issued.Add(min(life/2, issuePause))
}

// isDue reports whether a credential that ends at end must be replaced now. It allows a
// small part of the wait, because the scheduler's jitter may make a refresh that much
// earlier.
func isDue(due, end, now time.Time) bool {
	slack := time.Duration(float64(max(0, end.Sub(due))) * earlySlack)
	return !now.Before(due.Add(-slack))
}

// AfterChange returns when to read a value that, as the store said at asked, changes at
// at.
func AfterChange(asked, at time.Time, chance float64) time.Time {
	spread := min(max(0, at.Sub(asked)/changeSpread), longestChangeSpread)
	return at.Add(changeSlack + time.Duration(chance*float64(spread)))
}

// UntilChange returns when to read again if the store has not made a change that it
// announced for at: soon, and less often the later the change is.
func UntilChange(asked, at time.Time) time.Time {
	return asked.Add(max(changeSlack, asked.Sub(at)/2))
}

// longestUnread bounds for how long the engine checks only the version and does not read
// the value: an identity that may see the version may have lost the right to read.
const longestUnread = time.Hour

// VersionWillDo reports whether checking the version is enough for a value that was last
// read at read.
func VersionWillDo(read, now time.Time) bool { return now.Sub(read) < longestUnread }

// leaseUnseen is how long the engine trusts a lease without checking it: an operator may
// have revoked it.
const leaseUnseen = time.Hour

// fellShort reports whether a renewal granted less than requested, because the lease is
// near its maximum. The second is for the store's rounding.
func fellShort(asked, granted time.Duration) bool {
	return float64(granted+time.Second) < 0.9*float64(asked)
}
