package volume

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/schedule"
)

// State is how a volume is, in a word.
type State string

// The states of a volume.
const (
	// Publishing is of a volume whose first payload is waited for.
	Publishing State = "Publishing"
	// Fresh is of a volume whose last look at the store succeeded.
	Fresh State = "Fresh"
	// FromMemory is of a volume that was published while the store was away.
	FromMemory State = "FromMemory"
	// Failing is of a volume that keeps its last good content.
	Failing State = "Failing"
	// Emptied is of a volume whose class has a denial take its files.
	Emptied State = "Emptied"
	// Unpublishing is of a volume that kubelet takes away.
	Unpublishing State = "Unpublishing"
)

// Status is what is known of one volume at a moment. There is no secret in it.
type Status struct {
	Identity
	Progress
	State State
	// ClassVersion is the resourceVersion of the class that made the payload.
	ClassVersion string
	// Store is where the next refresh goes.
	Store string
	// Since is when the publish under way began, in the state Publishing.
	Since time.Time
	// NextAt is when the volume is looked at again; zero for never. Running
	// tells that it is being worked on.
	NextAt  time.Time
	Running bool
}

// Statuses are the volumes of this process, in no order. The work on them goes
// on meanwhile.
func (m *Manager) Statuses() []Status {
	due := m.scheduler.Due()
	volumes := m.all()
	all := make([]Status, 0, len(volumes))
	for _, v := range volumes {
		s, ok := v.status()
		if !ok {
			continue
		}
		if at, ok := due[v.id]; ok {
			s.NextAt, s.Running = at.Next, at.Running
		}
		all = append(all, s)
	}
	return all
}

// status answers false for a volume of which nothing is known.
func (v *Volume) status() (Status, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := Status{Identity: v.identity, Store: v.where.Store}
	rec := v.record.Load()
	switch at := v.state(); {
	case at == gone || rec == nil && v.since.IsZero():
		return s, false
	case rec == nil:
		s.State, s.Since, s.Running = Publishing, v.since, true
		return s, true
	case at == leaving:
		s.State = Unpublishing
	case rec.Failures > 0 && len(rec.Versions) == 0 && rec.Size == costOf(nil):
		s.State = Emptied
	case rec.Failures > 0:
		s.State = Failing
	case !rec.AsOf.IsZero():
		s.State = FromMemory
	default:
		s.State = Fresh
	}
	s.Progress = rec.Progress
	if rec.LastClass != nil {
		s.ClassVersion = rec.LastClass.ResourceVersion
	}
	return s, true
}

// Overview is what goes on beside the volumes. Its lists are in no order.
type Overview struct {
	// Queues are the queues of refreshes, one for each store.
	Queues []schedule.Queue
	// Revocations are those of gone volumes' credentials that are still to come.
	Revocations []Revocation
	// SetAside are the files of records that could not be read, and whose volumes
	// kubelet has not named since.
	SetAside []string
}

// Overview tells what goes on beside the volumes.
func (m *Manager) Overview() Overview {
	return Overview{Queues: m.scheduler.QueuesAt(time.Now()), Revocations: m.revoker.list(), SetAside: m.lost.list()}
}
