package session

import (
	"errors"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Parallel bounds the requests that are made for one volume at a time.
const Parallel = 16

// Settle ends each of the debts, in parallel. It returns those that could not
// be ended, and why.
func Settle[D any](debts []D, end func(D) error) (left []D, err error) {
	var mu sync.Mutex
	var failed []error
	var work errgroup.Group
	work.SetLimit(Parallel)
	for _, d := range debts {
		work.Go(func() error {
			if err := end(d); err != nil {
				mu.Lock()
				defer mu.Unlock()
				left, failed = append(left, d), append(failed, err)
			}
			return nil
		})
	}
	_ = work.Wait()
	return left, errors.Join(failed...)
}
