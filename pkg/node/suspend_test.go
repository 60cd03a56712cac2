package node

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestWatchSuspend(t *testing.T) {
	for name, c := range map[string]struct {
		suspended time.Duration
		id        string
		want      error
	}{
		"never":     {0, "a", nil},
		"briefly":   {suspendNoticed, "a", nil},
		"for hours": {8 * time.Hour, "a", ErrSuspended},
		"not known": {8 * time.Hour, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				boot := func() (time.Duration, string) {
					since := time.Since(began)
					if since >= time.Minute {
						since += c.suspended
					}
					return since, c.id
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				err := watchSuspend(ctx, boot)
				if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) {
					t.Errorf("the watch ends with %v, want %v", err, c.want)
				}
				if late := time.Since(began) - time.Minute; c.want != nil && late > suspendLook {
					t.Errorf("the suspend is noticed after %s", late)
				}
			})
		})
	}
}
