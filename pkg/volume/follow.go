package volume

import (
	"context"
	"reflect"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Follower keeps up what follows from a payload outside of the volume, such as
// Kubernetes Secrets. The payload is in the volume whatever comes of that, so
// it returns no error and tells people itself.
type Follower interface {
	// Follow is called with each complete payload after it is in the volume:
	// before the publish returns, and at each refresh, changed or not. It returns
	// when it wants to be called again, zero to leave that to the next refresh.
	// It is called by many volumes at once, and for one volume by one caller at a
	// time.
	Follow(ctx context.Context, f Followed) (again time.Time)
	// Warnings are what the author of a class is told of what is not done.
	Warnings(c *class.Class) []string
}

// Followed is a payload and how it came to be.
type Followed struct {
	Volume string
	Pod    identity.Pod
	Class  *class.Class
	// Files have their ReadAt set.
	Files    []provider.File
	Versions []provider.Version
	Leases   []provider.Lease
	// Since is when the volume got its first payload; zero at the first.
	Since time.Time
	// First tells that the payload is of a publish, and Changed that the files
	// were written.
	First, Changed bool
	// Edited tells that the payload before was made by a class that said something
	// else; an annotation alone says nothing. Recalled tells that this one is from memory, the store being away.
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

// Warnings implements Follower.
func (fs Followers) Warnings(c *class.Class) (all []string) {
	for _, x := range fs {
		all = append(all, x.Warnings(c)...)
	}
	return all
}

// follow calls the Follower with the payload that is in the volume by now. It brings the next
// refresh forward if the Follower asks for that. former is the class of the payload before, and
// asked is when the store was asked for this one.
func (r *run) follow(ctx context.Context, former *class.Class, payload *provider.Payload, asked time.Time) (err error) {
	rec := r.rec
	defer fault.Recover(&err, r.m.Logger, "what follows from class "+rec.Class.String(), logkey.Volume, rec.ID)
	files := slices.Clone(payload.Files)
	oldest := asked
	for i := range files {
		if at := files[i].ReadAt; !at.IsZero() && at.Before(oldest) {
			oldest = at
		}
	}
	for i := range files { // a file that is rendered is as old as what it may be made of
		if files[i].ReadAt.IsZero() {
			files[i].ReadAt = oldest
		}
	}
	again := r.m.Follower.Follow(ctx, Followed{
		Volume: rec.ID, Pod: rec.Pod, Class: rec.LastClass, Files: files, Versions: payload.Versions, Leases: payload.Leases,
		Since: rec.PublishedAt, First: !rec.published(), Changed: r.changed, Edited: former != nil && !sameSpec(former, rec.LastClass), Recalled: !rec.AsOf.IsZero(),
	})
	rec.DueAt = clock.Earliest(rec.DueAt, again)
	return nil
}

// sameSpec tells whether two editions of a class say the same.
func sameSpec(a, b *class.Class) bool {
	x, y := *a, *b
	x.ResourceVersion, y.ResourceVersion = "", ""
	x.Warnings, x.Suspects, y.Warnings, y.Suspects = nil, nil, nil, nil
	return reflect.DeepEqual(x, y)
}
