package volume

import (
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
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
// Slices are shared, and nobody changes them.
type Status struct {
	ID    string
	State State
	// Target is where the tmpfs is mounted.
	Target string
	Pod    identity.Pod
	Class  class.Ref
	// ClassVersion is the resourceVersion of the class that made the payload.
	ClassVersion string
	Provider     string
	// Store is where the next refresh goes.
	Store    string
	Versions []provider.Version
	// Ends are when the credentials in the volume end, and EndsOf the objects
	// that they belong to. EndsOf is shorter where that is not known.
	Ends   []time.Time
	EndsOf []string
	// Since is when the publish under way began, in the state Publishing.
	Since       time.Time
	PublishedAt time.Time
	RefreshedAt time.Time
	AsOf        time.Time
	// NextAt is when the volume is looked at again; zero for never. Running
	// tells that it is being worked on.
	NextAt  time.Time
	Running bool
	// Failures counts the failed refreshes since the last success, and the
	// others are of the last one.
	Failures    int
	LastFailure string
	LastReason  fault.Reason
	FailedAt    time.Time
}

// firstTry is a publish of a volume that has no payload yet.
type firstTry struct {
	target string
	pod    identity.Pod
	class  class.Ref
	since  time.Time
}

// tries notes the publish that is under way. The func that it returns ends that.
func (e *entry) tries(f *firstTry) func() {
	set := func(f *firstTry) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.first = f
	}
	set(f)
	return func() { set(nil) }
}

// public is what of the record others may ask for while the volume is worked on.
func (r *Record) public() *Record {
	return &Record{
		ID: r.ID, Target: r.Target, Pod: r.Pod, Class: r.Class, LastClass: r.LastClass, PublishedAt: r.PublishedAt, Size: r.Size,
		Provider: r.Provider, Versions: r.Versions, RefreshedAt: r.RefreshedAt, AsOf: r.AsOf, DueAt: r.DueAt,
		HeldEnds: r.HeldEnds, HeldObjects: r.HeldObjects,
		Failures: r.Failures, LastFailure: r.LastFailure, LastReason: r.LastReason, FailedAt: r.FailedAt,
	}
}

// Statuses are the volumes of this process, in no order. The work on them goes
// on meanwhile.
func (p *Publisher) Statuses() []Status {
	p.mu.Lock()
	entries := make(map[string]*entry, len(p.entries))
	for id, e := range p.entries {
		entries[id] = e
	}
	p.mu.Unlock()
	due := p.schedule.due()
	all := make([]Status, 0, len(entries))
	for id, e := range entries {
		s, ok := e.status()
		if !ok {
			continue
		}
		s.ID = id
		if at, ok := due[id]; ok {
			s.NextAt, s.Running = at.next, at.running
		}
		all = append(all, s)
	}
	return all
}

// status answers false for a volume of which nothing is known.
func (e *entry) status() (Status, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone || e.known == nil && e.first == nil {
		return Status{}, false
	}
	if e.known == nil {
		return Status{State: Publishing, Target: e.first.target, Pod: e.first.pod, Class: e.first.class, Since: e.first.since, Running: true}, true
	}
	r := e.known
	s := Status{
		State: e.state(), Target: r.Target, Pod: r.Pod, Class: r.Class, Provider: r.Provider, Store: e.where.Store, Versions: r.Versions,
		Ends: r.HeldEnds, EndsOf: r.HeldObjects, PublishedAt: r.PublishedAt, RefreshedAt: r.RefreshedAt, AsOf: r.AsOf,
		Failures: r.Failures, LastFailure: r.LastFailure, LastReason: r.LastReason, FailedAt: r.FailedAt,
	}
	if r.LastClass != nil {
		s.ClassVersion = r.LastClass.ResourceVersion
	}
	return s, true
}

// state needs the mutex, and a volume that is known.
func (e *entry) state() State {
	switch r := e.known; {
	case e.leaving > 0:
		return Unpublishing
	case r.Failures > 0 && len(r.Versions) == 0 && r.Size == costOf(nil):
		return Emptied
	case r.Failures > 0:
		return Failing
	case !r.AsOf.IsZero():
		return FromMemory
	}
	return Fresh
}

// Leaving is a volume that is gone, or was of another provider, of which
// credentials are still to be ended.
type Leaving struct {
	ID    string
	Pod   identity.Pod
	Class class.Ref
	// Providers are still to be asked.
	Providers []string
	// Tries counts the attempts so far, of Most; NextAt is that of the next.
	Tries, Most int
	Since       time.Time
	NextAt      time.Time
	Running     bool
}

// Overview is what goes on beside the volumes. Its lists are in no order.
type Overview struct {
	// Queues are the queues of refreshes, one for each store.
	Queues []Queue
	// Leavings are the ends of credentials that are still to come.
	Leavings []Leaving
	// SetAside are the files of records that could not be read, and whose volumes
	// kubelet has not named since.
	SetAside []string
}

// Overview tells what goes on beside the volumes.
func (p *Publisher) Overview() Overview {
	o := Overview{Queues: p.schedule.QueuesAt(time.Now()), Leavings: p.releaser.leavings()}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, file := range p.aside {
		o.SetAside = append(o.SetAside, file)
	}
	return o
}

func (r *releaser) leavings() []Leaving {
	due := r.queue.due()
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Leaving, 0, len(r.pending))
	for id, job := range r.pending {
		l := Leaving{ID: id, Pod: job.rec.Pod, Class: job.rec.Class, Tries: job.tries, Most: releaseTries, Since: job.began, Running: job.busy != nil}
		if at := due[id]; !l.Running { // an attempt has the list for itself
			l.Providers, l.NextAt = append([]string{}, job.left...), at.next
		}
		all = append(all, l)
	}
	return all
}

// Queue is how the work for one store stands.
type Queue struct {
	Store string
	// Namespaces have volumes in it, and Waiting of those wait for their time or
	// for a place. Overdue are those whose time has come.
	Namespaces, Waiting, Overdue int
	// Running have a place; Late have outlived theirs and have not ended.
	Running, Late int
	// NextAt is the first due time; zero for none.
	NextAt time.Time
}

// QueuesAt are the queues as they are at a moment.
func (s *Scheduler) QueuesAt(now time.Time) []Queue {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Queue, 0, len(s.queues))
	for _, q := range s.queues {
		out := Queue{Store: q.store, Namespaces: len(q.tenants), Running: q.busy}
		for _, n := range q.tenants {
			out.Waiting += len(n.due)
			out.Late += n.late
			for _, t := range n.due {
				if !t.at.After(now) {
					out.Overdue++
				}
			}
			if len(n.due) > 0 && (out.NextAt.IsZero() || n.due[0].at.Before(out.NextAt)) {
				out.NextAt = n.due[0].at
			}
		}
		all = append(all, out)
	}
	return all
}

// dueTime is when a volume is worked on.
type dueTime struct {
	next    time.Time // zero for never
	running bool
}

// due are the due times of all volumes.
func (s *Scheduler) due() map[string]dueTime {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]dueTime, len(s.tasks))
	for id, t := range s.tasks {
		d := dueTime{running: t.running}
		if t.due {
			d.next = t.at
		}
		all[id] = d
	}
	return all
}
