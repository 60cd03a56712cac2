package session

import (
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// parallel bounds the concurrent requests for one volume.
const parallel = 16

// InParallel calls do for each element, several at a time, and returns after the last
// call. It calls the last one in the caller's goroutine, which saves the growth of a new
// stack. A panic in do becomes a panic of the caller, after all calls.
func InParallel[T any](list []T, do func(T)) {
	if len(list) == 0 {
		return
	}
	var panicked atomic.Pointer[fault.Panic]
	safely := func(one T) {
		defer func() {
			if p := fault.Recovered(recover()); p != nil {
				panicked.CompareAndSwap(nil, p)
			}
		}()
		do(one)
	}
	var work errgroup.Group
	work.SetLimit(parallel)
	last := len(list) - 1
	for _, one := range list[:last] {
		work.Go(func() error {
			safely(one)
			return nil
		})
	}
	safely(list[last])
	_ = work.Wait()
	if p := panicked.Load(); p != nil {
		panic(p)
	}
}
