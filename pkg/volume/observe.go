package volume

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
)

// Kind is what happened to a volume.
type Kind string

// The kinds of outcome.
const (
	Published   Kind = "publish"
	Refreshed   Kind = "refresh"
	Unpublished Kind = "unpublish"
	Released    Kind = "release"
	Recovered   Kind = "recover"
)

// Outcome is what an Observer is told of one piece of work on one volume.
type Outcome struct {
	Kind     Kind
	Volume   string
	Target   string
	Pod      identity.Pod
	Class    class.Ref
	Provider string
	Versions []provider.Version
	// Changed tells whether the files were written.
	Changed bool
	// Emptied tells whether a denial has left the volume without files, as
	// its class asks; else a failed refresh has left it as it was.
	Emptied bool
	// AsOf is set where a volume was published from the node's memory, while
	// the store was away; it is the age of what the volume holds.
	AsOf time.Time
	// Err is nil on success. Whatever it says is safe to show.
	Err error
	// Failures counts the refreshes that failed in a row, this one included;
	// on a success it counts those that the success ended.
	Failures int
	Took     time.Duration
	// NextAt is when the volume is looked at again; zero for never.
	NextAt time.Time
}

// Reason is the class of the failure, empty on success.
func (o Outcome) Reason() fault.Reason {
	if o.Err == nil {
		return ""
	}
	return fault.Of(o.Err)
}

// Observer is told of outcomes. It must not block: it is told in the way of
// the work.
type Observer interface {
	Observe(o Outcome)
}

// Observers tells several in turn.
type Observers []Observer

// Observe implements Observer.
func (os Observers) Observe(o Outcome) {
	for _, x := range os {
		x.Observe(o)
	}
}

func (p *Publisher) outcome(k Kind, rec *Record, began time.Time, err error) Outcome {
	return Outcome{
		Kind: k, Volume: rec.ID, Target: rec.Target, Pod: rec.Pod, Class: rec.Class, Provider: rec.Provider,
		Versions: rec.Versions, Err: err, Failures: rec.Failures, Took: time.Since(began), NextAt: rec.DueAt,
	}
}
