package fault_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/test/testkit"
)

func TestOf(t *testing.T) {
	denied := fault.New(fault.Denied, "logging in: %w", errors.New("permission denied"))
	for _, tc := range []struct {
		name string
		err  error
		want fault.Reason
	}{
		{"direct", denied, fault.Denied},
		{"wrapped", fmt.Errorf("publishing: %w", denied), fault.Denied},
		{"outermost wins", fault.New(fault.TooLarge, "writing: %w", denied), fault.TooLarge},
		{"deadline", fmt.Errorf("x: %w", context.DeadlineExceeded), fault.Timeout},
		{"canceled", context.Canceled, fault.Canceled},
		{"unknown", errors.New("boom"), fault.Internal},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testkit.Equal(t, fmt.Sprintf("Of(%v)", tc.err), fault.Of(tc.err), tc.want)
		})
	}
}

func TestErrorText(t *testing.T) {
	cause := errors.New("sealed")
	err := fault.New(fault.Unavailable, "reading %q: %w", "secret/data/db", cause).WithHint("unseal the %s", "Vault")
	err.RetryAfter = 3 * time.Second
	if got, want := err.Error(), `reading "secret/data/db": sealed (unseal the Vault)`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !errors.Is(err, cause) || fault.RetryAfter(fmt.Errorf("w: %w", err)) != 3*time.Second || fault.RetryAfter(cause) != 0 {
		t.Error("the cause or the retry time was lost")
	}
}

func TestJoin(t *testing.T) {
	slow := fault.New(fault.RateLimited, "slow down")
	slow.RetryAfter = 7 * time.Second
	denied := fault.New(fault.Denied, "denied")
	if err := fault.Join(nil); err != nil {
		t.Errorf("nothing failed, but: %v", err)
	}
	if err := fault.Join([]error{denied}); err != denied {
		t.Errorf("one failure became %v", err)
	}
	err := fault.Join([]error{denied, slow})
	if fault.Of(err) != fault.RateLimited || fault.RetryAfter(err) != 7*time.Second || !errors.Is(err, slow) || err.Error() != "denied; slow down" {
		t.Errorf("two became %s after %s: %v", fault.Of(err), fault.RetryAfter(err), err)
	}
	many := make([]error, 12)
	for i := range many {
		many[i] = fmt.Errorf("e%d", i)
	}
	many[11] = slow
	if err := fault.Join(many); err.Error() != "e0; e1; e2; e3; e4; and 7 more" || fault.RetryAfter(err) != 7*time.Second {
		t.Errorf("twelve became: %v, after %s", err, fault.RetryAfter(err))
	}
	testkit.Equal(t, "the caller's list was changed", many[5].Error(), "e5")
}

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
		testkit.Equal(t, fmt.Sprintf("of %v", reasons), of(reasons...), want)
	}
}
