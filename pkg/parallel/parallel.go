// Package parallel runs one function for several elements at a time.
package parallel

import (
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// most bounds the concurrent calls of one Each.
const most = 16

// Each calls do for each element, several at a time, and returns after the last
// call. It calls the last one in the caller's goroutine, which saves the growth of a new
// stack. A panic in do becomes a panic of the caller, after all calls.
func Each[T any](list []T, do func(T)) {
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
	work.SetLimit(most)
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
