package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/clock"
)

// ErrSuspended ends Run after the node was suspended. The clock that all times
// in this process go by stood still meanwhile, and leases did not. A new Node,
// which takes the volumes up from their records, finds what fell due.
var ErrSuspended = errors.New("the node was suspended")

const (
	// suspendLook is the pause between two looks, and suspendNoticed the least
	// time that matters.
	suspendLook    = 5 * time.Second
	suspendNoticed = 10 * time.Second
)

// watchSuspend compares the time since the node's boot, which counts suspended
// time, with the process's own, which does not.
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
