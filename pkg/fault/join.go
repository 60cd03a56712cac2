package fault

import (
	"fmt"
	"slices"
	"strings"
)

// maxJoined bounds how many failures one error lists.
const maxJoined = 5

// Join makes one error of all failures; nil if there are none. The result takes the reason of most
// weight, from the first failure that has it, and the latest time that the store asked to retry at.
// The store was not asked if it was asked in none of them.
func Join(failed []error) error {
	switch len(failed) {
	case 0:
		return nil
	case 1:
		return failed[0]
	}
	all := &Error{Reason: Of(failed[0]), NotAsked: true}
	for _, err := range failed {
		all.RetryAfter = max(all.RetryAfter, RetryAfter(err))
		all.NotAsked = all.NotAsked && NotAsked(err)
		if r := Of(err); weight(r) > weight(all.Reason) {
			all.Reason = r
		}
	}
	if more := len(failed) - maxJoined; more > 0 {
		failed = append(slices.Clone(failed[:maxJoined]), fmt.Errorf("and %d more", more))
	}
	all.Err = List(failed)
	return all
}

// weight ranks the reasons of several failures. While a part of the store is away nothing is
// certain, and no other mistake may hide a denial.
func weight(r Reason) int {
	switch {
	case r.Outage():
		return 3
	case r == Unverified:
		return 2
	case r == Denied:
		return 1
	}
	return 0
}

// List prints several failures on one line, as Events show them.
type List []error

// Error joins the failures.
func (l List) Error() string {
	words := make([]string, len(l))
	for i, err := range l {
		words[i] = err.Error()
	}
	return strings.Join(words, "; ")
}

// Unwrap lets errors.As find each failure.
func (l List) Unwrap() []error { return l }
