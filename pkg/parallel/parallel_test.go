package parallel_test

import (
	"sync/atomic"
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/parallel"
)

// A panic in one of many is the caller's, with its stack, once all are done.
func TestEachPanics(t *testing.T) {
	for at := range 3 {
		var ran atomic.Int32
		defected := func() (p *fault.Panic) {
			defer func() { p = fault.Recovered(recover()) }()
			parallel.Each([]int{0, 1, 2}, func(i int) {
				ran.Add(1)
				if i == at {
					panic("a defect")
				}
			})
			return nil
		}()
		if defected == nil || defected.Type != "string" || defected.Stack == "" || ran.Load() != 3 {
			t.Errorf("panic in number %d: got %+v, %d ran", at, defected, ran.Load())
		}
	}
}
