package volume

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/schedule"
	"github.com/mayfly-csi/mayfly/pkg/volume/limits"
)

// State is the state of a volume, for users.
type State string

// The states of a volume.
const (
	// Publishing is of a volume that waits for its first payload.
	Publishing State = "Publishing"
	// Fresh is of a volume whose last publish or refresh succeeded.
	Fresh State = "Fresh"
	// FromMemory is of a volume with content from the node's memory, because the store
	// was unavailable at the publish.
	FromMemory State = "FromMemory"
	// Failing is of a volume whose last refresh failed; it keeps its last good content.
	Failing State = "Failing"
	// Emptied is of a volume whose files were removed after a denial, as its class asks.
	Emptied State = "Emptied"
	// Unpublishing is of a volume that is being unpublished.
	Unpublishing State = "Unpublishing"
)

// Status describes one volume at one time. It has no secret.
type Status struct {
	Identity
	Progress
	State State
	// ClassVersion is the resourceVersion of the class that made the payload.
	ClassVersion string
	// Store is the store of the next refresh.
	Store string
	// AnsweredBy is the second address of the store if that answered last, else empty.
	AnsweredBy string
	// Since is the start of the publish, in the state Publishing.
	Since time.Time
	// NextAt is the time of the next refresh; zero for none. Running says that work on
	// the volume runs.
	NextAt  time.Time
	Running bool
}

// Statuses returns the volumes of this process, in no order.
func (m *Manager) Statuses() []Status {
	due := m.scheduler.Due()
	volumes := m.all()
	all := make([]Status, 0, len(volumes))
	for _, v := range volumes {
		s, ok := statusOf(v)
		if !ok {
			continue
		}
		s.AnsweredBy = m.answeredBy(s.ID, s.Provider)
		if at, ok := due[v.id]; ok {
			s.NextAt, s.Running = at.Next, at.Running
		}
		all = append(all, s)
	}
	return all
}

// statusOf returns false if nothing is known of the volume.
func statusOf(v *Volume) (Status, bool) {
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
	case rec.Failures > 0 && len(rec.Versions) == 0 && rec.Size == limits.CostOf(nil):
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

// Overview has the queues, and what remains of gone volumes. Its lists are in no order.
type Overview struct {
	// Queues are the queues of refreshes, one for each store.
	Queues []schedule.Queue
	// Revocations are pending.
	Revocations []Revocation
	// SetAside are the files of records that could not be read, and whose volumes
	// kubelet has not published again.
	SetAside []string
}

// Overview returns the queues, revocations and unreadable records.
func (m *Manager) Overview() Overview {
	return Overview{Queues: m.scheduler.QueuesAt(time.Now()), Revocations: m.revoker.list(), SetAside: m.lost.list()}
}
