// Package fault says why a piece of work failed. The gRPC answer, the metrics, and the person who
// reads the pod's events all get the same words.
package fault

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Reason is the class of a failure. It is short and stable, as it is the value of the metrics'
// error_type label and of the log key "reason".
type Reason string

// The reasons, from the caller's mistakes to the driver's own.
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
	Rejected        Reason = "Rejected"        // the store found the request malformed or invalid (HTTP 400)
	Unavailable     Reason = "Unavailable"     // the store or the API server cannot answer now
	RateLimited     Reason = "RateLimited"     // the store asked the driver to slow down
	Timeout         Reason = "Timeout"         // no answer in time
	BadAnswer       Reason = "BadAnswer"       // the driver cannot understand the store's answer
	TooLarge        Reason = "TooLarge"        // the payload does not fit the volume
	Exhausted       Reason = "Exhausted"       // the memory of the node, or the namespace's part of it, is used up
	Conflict        Reason = "Conflict"        // something else occupies the target path
	Mount           Reason = "Mount"           // the kernel refused a mount or a write
	State           Reason = "State"           // the driver's state directory failed
	Canceled        Reason = "Canceled"        // the caller gave up, or the volume is going away
	Internal        Reason = "Internal"        // a defect of the driver
)

// Reasons returns all of them.
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
	// Hint tells a person what to do; may be empty.
	Hint string
	// RetryAfter is when to retry, as the store asked; 0 if it did not ask.
	RetryAfter time.Duration
	// NotAsked says that the driver did not ask the store, because that failed moments ago. Then
	// this failure shows nothing new.
	NotAsked bool
}

// Error returns the chain of what was attempted, then the hint.
func (e *Error) Error() string {
	if e.Hint == "" {
		return e.Err.Error()
	}
	return e.Err.Error() + " (" + e.Hint + ")"
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error with a reason; the format may wrap with %w.
func New(r Reason, format string, args ...any) *Error {
	return &Error{Reason: r, Err: fmt.Errorf(format, args...)}
}

// Wrap makes an error with a reason from err: the format says what was attempted. It keeps the time
// at which the store asked to retry, and whether it was asked.
func Wrap(r Reason, err error, format string, args ...any) *Error {
	e := New(r, format+": %w", append(args, err)...)
	e.RetryAfter, e.NotAsked = RetryAfter(err), NotAsked(err)
	return e
}

// WithHint adds what to do about it.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}

// Of finds the reason of the outermost fault in err's chain. A context error without a fault is
// Timeout or Canceled; any other error is Internal.
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

// RetryAfter finds when the store asked to retry, 0 if it did not ask.
func RetryAfter(err error) time.Duration {
	if f, ok := errors.AsType[*Error](err); ok {
		return f.RetryAfter
	}
	return 0
}

// NotAsked reports whether the driver did not ask the store.
func NotAsked(err error) bool {
	f, ok := errors.AsType[*Error](err)
	return ok && f.NotAsked
}

// Outage reports whether a retry alone may succeed: the store could not answer, or the driver could
// not use its answer. A denial is an answer.
func (r Reason) Outage() bool {
	switch r {
	case Unavailable, RateLimited, Timeout, BadAnswer, Exhausted:
		return true
	}
	return false
}

// Hint finds what to do about an error: the outermost hint in its chain, empty if there is none.
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

// Cause returns the text of the innermost fault of an error, without what was attempted around it.
// It follows the first of several joined errors.
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
