package fault_test

import (
	"testing"

	"github.com/mayfly-csi/mayfly/pkg/fault"
)

func TestJoinRanksReasons(t *testing.T) {
	of := func(reasons ...fault.Reason) fault.Reason {
		var failed []error
		for _, r := range reasons {
			failed = append(failed, fault.New(r, "%s", r))
		}
		return fault.Of(fault.Join(failed))
	}
	for want, reasons := range map[fault.Reason][]fault.Reason{
		fault.NotFound:    {fault.NotFound, fault.Rejected},
		fault.Denied:      {fault.NotFound, fault.Denied, fault.Rejected},
		fault.Unverified:  {fault.Denied, fault.Unverified, fault.NotFound},
		fault.Unavailable: {fault.NotFound, fault.Denied, fault.Unverified, fault.Unavailable, fault.Timeout},
	} {
		if got := of(reasons...); got != want {
			t.Errorf("%s of %v, want %s", got, reasons, want)
		}
	}
}
