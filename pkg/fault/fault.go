// Package fault says why a piece of work failed, in words that the gRPC
// answer, the metrics and the person who reads the pod's events all share.
package fault

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Reason is the class of a failure. It is short and stable: it is the value
// of the metrics' error_type label and of the log key "reason".
type Reason string

// The reasons, from the caller's mistakes to our own.
const (
	InvalidArgument Reason = "InvalidArgument" // the CSI request itself
	InvalidClass    Reason = "InvalidClass"    // the SecretProviderClass cannot work as written
	ClassNotFound   Reason = "ClassNotFound"   // no such SecretProviderClass
	UnknownProvider Reason = "UnknownProvider" // no provider of that name on this node
	NotAllowed      Reason = "NotAllowed"      // an operator's rule forbids it, such as the address allow-list
	NoToken         Reason = "NoToken"         // kubelet passed no usable service account token
	Denied          Reason = "Denied"          // the store refused the login or the read
	Unverified      Reason = "Unverified"      // the store refused, and may only have been unable to check who asks
	NotFound        Reason = "NotFound"        // the store has no such path, version, key or role
	Rejected        Reason = "Rejected"        // the store took the request for a wrong one (HTTP 400)
	Unavailable     Reason = "Unavailable"     // the store or the API server cannot answer now
	RateLimited     Reason = "RateLimited"     // the store asked us to slow down
	Timeout         Reason = "Timeout"         // no answer in time
	BadAnswer       Reason = "BadAnswer"       // the store answered what cannot be understood
	TooLarge        Reason = "TooLarge"        // the payload does not fit the volume
	Exhausted       Reason = "Exhausted"       // the memory of the node, or the namespace's part of it, is full now
	Conflict        Reason = "Conflict"        // something else occupies the target path
	Mount           Reason = "Mount"           // the kernel refused a mount or a write
	State           Reason = "State"           // our own state directory failed
	Canceled        Reason = "Canceled"        // the caller gave up, or the volume is going away
	Internal        Reason = "Internal"        // a defect of ours
)

// Reasons are all of them.
func Reasons() []Reason {
	return []Reason{
		InvalidArgument, InvalidClass, ClassNotFound, UnknownProvider, NotAllowed, NoToken, Denied,
		Unverified, NotFound, Rejected, Unavailable, RateLimited, Timeout, BadAnswer,
		TooLarge, Exhausted, Conflict, Mount, State, Canceled, Internal,
	}
}

// Error is a failure with its reason and, where one is known, what to do.
type Error struct {
	Reason Reason
	Err    error
	// Hint tells a person what to do; empty where there is nothing to say.
	Hint string
	// RetryAfter is the store's own word on when to come back; 0 if it said nothing.
	RetryAfter time.Duration
}

// Error gives the chain of what was attempted, then the hint.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Err.Error()
	}
	return e.Err.Error() + " (" + e.Hint + ")"
}

// Unwrap gives errors.Is and errors.As the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error of a reason; the format may wrap with %w.
func New(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Err: fmt.Errorf(format, args...)}
}

// WithHint adds what to do about it.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Of finds the reason of the outermost fault in err's chain. A bare context
// error is a Timeout or Canceled; whatever has no reason is Internal.
func Of(err error) Reason {
	var f *Error
	switch {
	case errors.As(err, &f):
		return f.Reason
	case errors.Is(err, context.DeadlineExceeded):
		return Timeout
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Internal
}

// RetryAfter finds the store's word on when to come back, 0 if there is none.
func RetryAfter(err error) time.Duration {
	var f *Error
	if errors.As(err, &f) {
		return f.RetryAfter
	}
	return 0
}

// Outage tells whether the reason is one that time alone may mend: the store
// could not answer, or its answer could not be taken. A denial is an answer.
func (r Reason) Outage() bool {
	switch r {
	case Unavailable, RateLimited, Timeout, BadAnswer, Exhausted:
		return true
	}
	return false
}

// Hint finds what to do about an error: the outermost advice in its chain, empty
// if there is none.
func Hint(err error) string {
	for err != nil {
		if f, ok := err.(*Error); ok && f.Hint != "" { //nolint:errorlint // each link in turn
			return f.Hint
		}
		if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // likewise
			for _, e := range joined.Unwrap() {
				if hint := Hint(e); hint != "" {
					return hint
				}
			}
			return ""
		}
		err = errors.Unwrap(err)
	}
	return ""
}

// Cause is what the innermost fault of an error says, without what was attempted
// around it; the first one where there are several.
func Cause(err error) string {
	text := err.Error()
	for err != nil {
		if f, ok := err.(*Error); ok { //nolint:errorlint // each link in turn
			text = f.Err.Error()
		}
		if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 0 { //nolint:errorlint // likewise
			err = joined.Unwrap()[0]
			continue
		}
		err = errors.Unwrap(err)
	}
	return text
}

// Ended is why a context that is over ended, with the reason that it has for
// the caller: its cause may be any error.
func Ended(ctx context.Context) error {
	return New(Of(ctx.Err()), "%w", context.Cause(ctx))
}
