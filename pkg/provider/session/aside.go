package session

// Aside keeps what a volume has as one identity while an edit of its class has
// it ask as another. An edit that the store refuses, and that is taken back,
// then costs nothing. S is what a volume has as one identity. The zero value
// keeps nothing. It has no lock of its own.
type Aside[S any] struct{ kept *S }

// Switch has a volume, which has now, go on as another identity. It gives what
// the volume goes on with, nil to begin from nothing, and what of now the volume
// gives up for good, nil for nothing: what is kept is of the last identity that
// was answered, so that what was tried since goes.
func (a *Aside[S]) Switch(now *S, isOf func(*S) bool) (next, over *S) {
	switch {
	case a.kept == nil:
		a.kept = now
		return nil, nil
	case isOf(a.kept):
		next, a.kept = a.kept, nil
		return next, now
	}
	return nil, now
}

// Kept is what is kept; nil for nothing.
func (a *Aside[S]) Kept() *S { return a.kept }

// Take gives up what is kept; nil for nothing.
func (a *Aside[S]) Take() *S {
	s := a.kept
	a.kept = nil
	return s
}
