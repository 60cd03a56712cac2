package volume

import (
	"log/slog"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/trace"
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
	// ReleaseFailed is of a try to end credentials that is made again at NextAt.
	ReleaseFailed Kind = "release-failed"
	// Waiting is of a first publish whose store has not answered for a while.
	// Its own outcome follows.
	Waiting Kind = "waiting"
	// SetAside is of a record that cannot be read. Only its file is known:
	// the volume shows when kubelet names it.
	SetAside Kind = "set-aside"
)

// Outcome is what an Observer is told of one piece of work on one volume.
type Outcome struct {
	Kind Kind
	Identity
	// ClassVersion is the resourceVersion of the class that was used last.
	ClassVersion string
	Provider     string
	// Tokens says by which service account tokens the store was asked: what
	// is known of each.
	Tokens   []identity.AudienceClaims
	Versions []provider.Version
	// Store is where the answer is waited for, as far as that is known.
	Store string
	// Asked are the ids under which the store's own audit log has the
	// requests, as far as the provider knows of any.
	Asked []string
	// Accesses are the logins and renewals among them.
	Accesses []provider.Access
	// Changed tells whether the files were written.
	Changed bool
	// Emptied tells whether a denial has left the volume without files, as
	// its class asks; else a failed refresh has left it as it was.
	Emptied bool
	// Warnings are what the class works without. WarnPod tells that the pod's
	// author was not told of this edition of the class yet.
	Warnings []string
	WarnPod  bool
	// AsOf is set while a volume holds what it was published with from the
	// node's memory, the store being away; it is the age of that.
	AsOf time.Time
	// SetAside is the file of the volume's earlier record, where that could
	// not be read. The volume's first publish after that has it.
	SetAside string
	// Err is nil on success. Whatever it says is safe to show.
	Err error
	// Failures counts the refreshes that failed in a row, this one included;
	// on a success it counts those that the success ended.
	Failures int
	// Repeated tells that the refresh before failed for the same reason.
	Repeated bool
	Took     time.Duration
	// Steps are what of that a publish or refresh took for each step, as far as it
	// came.
	Steps []StepTime
	// Trace is the id of the trace of this work, empty for none.
	Trace string
	// NextAt is when the volume is looked at again; zero for never.
	NextAt time.Time
}

// Step is a part of a publish or refresh.
type Step string

// The steps.
const (
	StepClass  Step = "class"  // the class was looked up
	StepStore  Step = "store"  // the provider fetched
	StepMount  Step = "mount"  // the tmpfs was made or looked at, after the store's answer
	StepWrite  Step = "write"  // the files were compared and written
	StepFollow Step = "follow" // Kubernetes Secrets were written and workloads restarted, where that is switched on
	StepRecord Step = "record" // the record was saved
)

// Steps are all of them, in their order.
func Steps() []Step {
	return []Step{StepClass, StepStore, StepMount, StepWrite, StepFollow, StepRecord}
}

// StepTime is what a step took.
type StepTime struct {
	Step Step
	Took time.Duration
}

// Reason is the class of the failure, empty on success.
func (o Outcome) Reason() fault.Reason {
	if o.Err == nil {
		return ""
	}
	return fault.Of(o.Err)
}

// workOf is what the span of work on a volume is about.
func workOf(rec *Record) trace.Work {
	return trace.Work{PodNamespace: rec.Pod.Namespace, PodName: rec.Pod.Name, PodUID: rec.Pod.UID, Volume: rec.ID, Class: rec.Class.Name}
}

// endSpan ends the span of the work.
func (o *Outcome) endSpan(s trace.Span) {
	o.Trace = s.ID()
	s.Result(trace.Result{Provider: o.Provider, Asked: o.Asked, Changed: o.Changed})
	s.End(o.Err)
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

func outcomeOf(k Kind, rec *Record, began time.Time, err error) Outcome {
	o := Outcome{
		Kind: k, Identity: rec.Identity, Provider: rec.Provider, Tokens: rec.Tokens.Claims(), Versions: rec.Versions, AsOf: rec.AsOf,
		Err: err, Failures: rec.Failures, Took: time.Since(began), NextAt: rec.DueAt,
	}
	if rec.LastClass != nil {
		o.ClassVersion = rec.LastClass.ResourceVersion
	}
	return o
}

// outcome is that of the run of a publish or refresh.
func (r *run) outcome(k Kind, began time.Time, err error) Outcome {
	o := outcomeOf(k, r.rec, began, err)
	o.Steps, o.Warnings, o.WarnPod = r.steps, r.warnings, r.warnPod
	o.Changed, o.Emptied, o.Asked, o.Accesses = r.changed, r.emptied, r.asked, r.accesses
	if r.class != nil {
		o.ClassVersion = r.class.ResourceVersion
	}
	return o
}

// logRefresh logs the first failure of a refresh, and its end.
func (o *Outcome) logRefresh(log *slog.Logger) {
	log = log.With(logkey.Volume, o.ID, logkey.Pod, o.Pod.String(), logkey.Class, o.Class.String())
	switch {
	case o.Emptied && o.Changed:
		log.Warn("refresh denied, the volume was emptied as its class asks", logkey.Error, o.Err, logkey.RetryAt, o.NextAt)
	case o.Err != nil && o.Failures == 1:
		log.Warn("refresh failed, the volume keeps its last good content", logkey.Reason, string(o.Reason()), logkey.Error, o.Err, logkey.RetryAt, o.NextAt)
	case o.Err != nil:
		log.Debug("refresh failed again", logkey.Reason, string(o.Reason()), logkey.Error, o.Err, logkey.Failures, o.Failures, logkey.RetryAt, o.NextAt)
	case o.Failures > 0:
		log.Info("refresh recovered", logkey.Failures, o.Failures, logkey.Changed, o.Changed)
	case o.Changed:
		log.Info("rotated", logkey.Next, o.NextAt)
	default:
		log.Debug("refreshed, nothing changed", logkey.Next, o.NextAt)
	}
}
