package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/clock"
)

// ErrSuspended ends Run after the node was suspended. The clock that this process uses for all
// times stopped meanwhile, and leases expired. A new Node, which recovers the volumes from their
// records, finds what is due.
var ErrSuspended = errors.New("the node was suspended")

const (
	// suspendLook is the pause between two checks, and suspendNoticed the shortest suspension that
	// matters.
	suspendLook    = 5 * time.Second
	suspendNoticed = 10 * time.Second
)

// watchSuspend compares the time since the node's boot, which counts suspended time, with the
// process's own, which does not.
func watchSuspend(ctx context.Context, boot clock.Boot) error {
	began := time.Now()
	first, id := boot()
	if id == "" {
		return nil
	}
	look := time.NewTicker(suspendLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
		now, _ := boot()
		if suspended := now - first - time.Since(began); suspended > suspendNoticed {
			return fmt.Errorf("%w for %s", ErrSuspended, suspended.Round(time.Second))
		}
	}
}
