package session

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/provider/params"
)

// Kind is what decides when an answer is to be had again.
type Kind int

// The kinds. Their numbers are part of the state.
const (
	Polled      Kind = iota // has no lifetime: read again at the interval
	Static                  // changes at a time that the store names
	Certificate             // is made by the read, and ends by itself
	Leased                  // is made by the read, ends with its lease or token
	Once                    // is made by the read, and has no end
)

// Shareable tells whether a read is alike for all who may make it.
func (k Kind) Shareable() bool { return k == Polled || k == Static }

// What is kept of an answer. Of a small one that is all, so that classes which
// take other keys of it need not ask again: of a credential, which only a new
// one could replace, up to 64 KiB. Of a larger one it is what the objects take.
const (
	wholeAnswer     = 2 << 10
	wholeCredential = 64 << 10
)

// Answer is what the store said, or a part of it. It is never changed, so
// volumes share it.
type Answer struct {
	// Body is the whole answer as the store sent it; nil where a part is kept,
	// in which "" is the key of the whole.
	Body []byte
	Part *params.Part
	// Type is the store's own word for what it is.
	Type string
	// LeaseID names a credential for its renewal and end; empty for none.
	LeaseID   string
	Duration  time.Duration // of the lease
	Renewable bool
	// Warnings are the store's, fit for people.
	Warnings []string
	Revision Revision
}

// Revision tells two states of a secret apart. One that was deleted for good
// and made again counts from 1 again, at another time.
type Revision struct {
	Number  string
	Changed string
	Rotated string
}

// Known tells whether the store gave it.
func (v Revision) Known() bool { return v.Number != "" && v.Number != "0" && v.Changed != "" }

// Has tells whether the answer was looked through for the keys. One that was
// read for other objects is none for these.
func (a *Answer) Has(keys []string) bool {
	return a == nil || a.Part == nil || a.Part.Has(keys)
}

// size is about how many bytes of memory the answer takes.
func (a *Answer) size() int64 {
	const base = 256
	size := base + len(a.Body) + a.Part.Size() + len(a.LeaseID)
	for _, w := range a.Warnings {
		size += len(w)
	}
	return int64(size)
}

// Reading is one answer and when it was had. It is never changed.
type Reading struct {
	Answer *Answer // nil where Absent
	Kind   Kind
	Asked  time.Time // before the request left
	Read   time.Time // the same of the last request for the answer itself
	At     time.Time // when the answer was there
	// End is that of the lifetime, or the announced change of a Static answer.
	End time.Time
	// Due is when to ask again for a Static answer; others depend on the class.
	Due    time.Time
	Absent bool   // the store has nothing there, and the class does not mind
	Token  *Token // that it was asked with
	// Correlation is the request's in the store's audit log; empty for an
	// answer of an earlier process.
	Correlation string
}

// Absent is the reading of optional objects that are not there.
func Absent(now time.Time, t *Token) *Reading {
	return &Reading{Asked: now, At: now, Absent: true, Token: t}
}

// Size is about how many bytes of memory it takes.
func (rd *Reading) Size() int64 {
	const base = 256
	if rd.Answer == nil {
		return base
	}
	return base + rd.Answer.size()
}

// answers tells whether the reading is one for what the objects take.
func (rd *Reading) answers(r *Request) bool {
	return rd != nil && (rd.Absent || rd.Answer.Has(r.Keys))
}

// Again is the same answer, which the store was found to still have.
func (rd *Reading) Again(asked, at time.Time, t *Token, correlation string) *Reading {
	next := *rd
	next.Asked, next.At, next.Token, next.Correlation = asked, at, t, correlation
	return &next
}

// expires is the end of what the answer holds; zero for none.
func (rd *Reading) expires() time.Time {
	if rd.Kind == Static {
		return time.Time{}
	}
	return rd.End
}

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

// recentEnough tells whether an answer that was asked for at a moment, and is due
// to be had again at another, will do: for its own volume, with room for the
// scheduler's jitter, or for another of the same identity.
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
