package volume

import (
	"context"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Follower writes objects outside the volume that depend on its payload, such as
// Kubernetes Secrets. The payload is in the volume also if that fails, so a Follower
// returns no error and reports its failures itself.
type Follower interface {
	// Follow is called with each complete payload after it is in the volume: before
	// the publish returns, and at each refresh, changed or not. It returns when it
	// wants to be called again, zero for the next refresh. Calls for different volumes
	// are concurrent.
	Follow(ctx context.Context, f Followed) (again time.Time)
	// Warnings returns warnings about parts of the class that the Follower does not
	// handle.
	Warnings(c *class.Class) []string
	// Idle tells that Follow never does anything, so that it need not be called.
	Idle() bool
}

// Followed is a payload, and how the volume got it.
type Followed struct {
	Volume string
	Pod    identity.Pod
	Class  *class.Class
	// Files have their ReadAt set.
	Files    []provider.File
	Versions []provider.Version
	Leases   []provider.Lease
	// Rendering made the files of the class. A Follower may know more that it makes.
	Rendering Rendering
	// Since is when the volume got its first payload; zero at the first.
	Since time.Time
	// First says that the payload is of a publish, and Changed that the files were
	// written.
	First, Changed bool
	// Edited says that the specification of the class has changed since the payload
	// before. Recalled says that the payload is from memory, because the store was
	// unavailable.
	Edited, Recalled bool
}

// Followers calls several in turn.
type Followers []Follower

// Follow implements Follower.
func (fs Followers) Follow(ctx context.Context, f Followed) (again time.Time) {
	for _, x := range fs {
		again = clock.Earliest(again, x.Follow(ctx, f))
	}
	return again
}

// Idle implements Follower.
func (fs Followers) Idle() bool {
	return !slices.ContainsFunc(fs, func(f Follower) bool { return !f.Idle() })
}

// Warnings implements Follower.
func (fs Followers) Warnings(c *class.Class) (all []string) {
	for _, x := range fs {
		all = append(all, x.Warnings(c)...)
	}
	return all
}

// OldestRead returns when the store was asked for the oldest of the files. Those that were
// issued for the pod, which have a lease, count only if there are no others: each pod has
// its own, whose age does not say which of two payloads is newer.
func OldestRead(files []provider.File, leases []provider.Lease) (oldest time.Time) {
	issued := map[string]bool{}
	for _, l := range leases {
		issued[l.Object] = true
	}
	var others time.Time
	for _, f := range files {
		if issued[f.Path] {
			oldest = clock.Earliest(oldest, f.ReadAt)
		} else {
			others = clock.Earliest(others, f.ReadAt)
		}
	}
	if !others.IsZero() {
		return others
	}
	return oldest
}
