package session

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// Kind decides when a request is sent again.
type Kind int

// The kinds. Their numbers are part of the state.
const (
	Polled      Kind = iota // has no lifetime: read again at the interval
	Static                  // changes at a time that the store names
	Certificate             // the read creates it, and it expires
	Leased                  // the read creates it, and it ends with its lease or token
	Once                    // the read creates it, and it does not expire
)

// Shareable reports whether the answer is the same for all identities that may read it.
func (k Kind) Shareable() bool { return k == Polled || k == Static }

// A small answer is kept as a whole, so that another class can use other keys of it
// without a request. The limit is higher for a credential, which would have to be issued
// again. Of a larger answer only the keys of the objects are kept. In bytes.
const (
	wholeAnswer     = 2 << 10
	wholeCredential = 64 << 10
)

// Answer is an answer of the store, or a part of it. It is never changed, so that volumes
// can share it.
type Answer struct {
	// Body is the whole answer as the store sent it; nil if there is only a Part, in
	// which "" is the key of the whole.
	Body []byte
	Part *params.Part
	// Type is the store's own name of the kind of secret.
	Type string
	// LeaseID is the id of the credential's lease; empty for none.
	LeaseID   string
	Duration  time.Duration // of the lease
	Renewable bool
	// Warnings are the store's warnings, for users.
	Warnings []string
	Revision Revision
}

// Revision identifies the version of a secret. The numbers of a secret that was destroyed
// and created again begin at 1 again, with another time.
type Revision struct {
	Number  string
	Changed string
	Rotated string
}

// Known reports whether the store returned a revision.
func (v Revision) Known() bool { return v.Number != "" && v.Number != "0" && v.Changed != "" }

// Has reports whether the answer has what the keys need: a Part has only the keys of the
// objects for which it was read.
func (a *Answer) Has(keys []string) bool {
	return a == nil || a.Part == nil || a.Part.Has(keys)
}

// size is the approximate size in memory, in bytes.
func (a *Answer) size() int64 {
	const base = 256
	size := base + len(a.Body) + a.Part.Size() + len(a.LeaseID)
	for _, w := range a.Warnings {
		size += len(w)
	}
	return int64(size)
}

// Reading is an answer and its times. It is never changed.
type Reading struct {
	Answer *Answer // nil if Absent
	Kind   Kind
	Asked  time.Time // before the request, also one that only checked the version
	Read   time.Time // before the last request for the answer itself
	At     time.Time // when the answer arrived
	// End is the end of the lifetime, or the announced change of a Static answer.
	End time.Time
	// Due is when to read a Static answer again; for others the class decides.
	Due    time.Time
	Absent bool   // the store has no such object, and the class says that it is optional
	Token  *Token // of the request
	// Correlation is the request's id in the store's audit log; empty for an answer of
	// an earlier process.
	Correlation string
}

// Absent returns the reading of an optional object that the store does not have.
func Absent(now time.Time, t *Token) *Reading {
	return &Reading{Asked: now, At: now, Absent: true, Token: t}
}

// Size implements cache.Answer: the approximate size in memory, in bytes.
func (rd *Reading) Size() int64 {
	const base = 256
	if rd.Answer == nil {
		return base
	}
	return base + rd.Answer.size()
}

// AskedAt implements cache.Answer.
func (rd *Reading) AskedAt() time.Time { return rd.Asked }

// answers reports whether the reading has what the request's objects need.
func (rd *Reading) answers(r *Request) bool {
	return rd != nil && (rd.Absent || rd.Answer.Has(r.Keys))
}

// Again returns the same answer after the store confirmed that it has not changed.
func (rd *Reading) Again(asked, at time.Time, t *Token, correlation string) *Reading {
	next := *rd
	next.Asked, next.At, next.Token, next.Correlation = asked, at, t, correlation
	return &next
}

// expires returns when the answer's credential expires; zero for never.
func (rd *Reading) expires() time.Time {
	if rd.Kind == Static {
		return time.Time{}
	}
	return rd.End
}

// dueOf returns when to send a request again. chance, from 0 to 1, makes the replacement
// of a credential earlier.
func (s *Spec) dueOf(r *Request, k Kind, at, end time.Time, chance float64) time.Time {
	interval, again := s.Interval, false
	if r.Interval > 0 { // the object asks for it, so it also applies to reads that create something
		interval, again = r.Interval, true
	}
	return DueAt(k, at, end, interval, again, chance)
}

// readingDue returns when to read a polled or static object again.
func (s *Spec) readingDue(r *Request, rd *Reading) time.Time {
	if rd.Kind == Static { // a manual rotation is noticed within the interval
		return clock.Earliest(rd.Due, s.dueOf(r, Polled, rd.Asked, time.Time{}, 0))
	}
	return s.dueOf(r, Polled, rd.Asked, time.Time{}, 0)
}

// DueAt returns when to send a request again. again says that the interval also applies to
// requests of the kind Once.
func DueAt(k Kind, at, end time.Time, interval time.Duration, again bool, chance float64) time.Time {
	switch k {
	case Leased, Certificate:
		if !end.After(at) { // expired already, or a lease without a duration
			return at.Add(interval)
		}
		return twoThirds(at, end, chance)
	case Static:
		return AfterChange(at, end, chance)
	case Once:
		if !again {
			return time.Time{}
		}
	}
	return at.Add(interval)
}

// recentEnough reports whether an answer is recent enough: for its own volume until it is
// nearly due, because of the scheduler's jitter, and for another volume of the identity
// until half of that time.
func recentEnough(k Kind, asked, due, now time.Time, own bool) bool {
	share := 0.5
	switch {
	case own && k == Static:
		return now.Before(due)
	case own:
		share = 0.9
	}
	return now.Before(asked.Add(time.Duration(share * float64(due.Sub(asked)))))
}

// Result is the answer to one request, and when to send it again. It has neither a reading
// nor an error if the request was not sent because another one failed.
type Result struct {
	*Reading
	Err error

	due  time.Time
	ends time.Time // of a credential; zero for never
	// failed is why this is the last good answer and not a current one.
	failed error
}

// result returns the Result of a shareable reading.
func (s *Spec) result(r *Request, rd *Reading) Result {
	return Result{Reading: rd, due: s.readingDue(r, rd), ends: rd.expires()}
}
