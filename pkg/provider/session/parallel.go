package session

import (
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

// parallel bounds the requests that are made for one volume at a time.
const parallel = 16

// InParallel does something with each, several at a time, and returns when all
// is done. The last it does itself: that saves a goroutine, whose stack would
// have to grow first. A panic is the caller's, once all is done.
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
