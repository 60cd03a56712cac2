package volume

import (
	"log/slog"
	"strings"
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
	// ReleaseFailed is of a failed revocation of credentials, which is tried again at
	// NextAt.
	ReleaseFailed Kind = "release-failed"
	// Waiting is of a first publish whose store has not answered yet. The outcome of
	// the publish follows.
	Waiting Kind = "waiting"
	// SetAside is of a record that cannot be read. Only its file is known, until
	// kubelet publishes the volume again.
	SetAside Kind = "set-aside"
)

// Outcome describes one piece of work on one volume, for Observers.
type Outcome struct {
	Kind Kind
	Identity
	// ClassVersion is the resourceVersion of the class that was used last.
	ClassVersion string
	Provider     string
	// Tokens has the claims of the service account tokens, without the tokens.
	Tokens   []identity.AudienceClaims
	Versions []provider.Version
	// Store is the server that has not answered, in the kind Waiting; empty if it is
	// unknown.
	Store string
	// Asked are the ids of the requests in the store's own audit log, if the provider
	// knows them.
	Asked []string
	// AnsweredBy is the second address of the store if that answered last, because
	// the first was away; else empty.
	AnsweredBy string
	// Accesses are the logins and renewals among the requests.
	Accesses []provider.Access
	// Changed says that the files were written.
	Changed bool
	// Emptied says that the files were removed after a denial, as the class asks. Any
	// other failed refresh leaves the files as they were.
	Emptied bool
	// Warnings are about mistakes with which the class still works. WarnPod says that
	// the pod has no Event about this version of the class yet.
	Warnings []string
	WarnPod  bool
	// AsOf is the time of the content if it is from the node's memory, because the
	// store was unavailable at the publish; otherwise zero.
	AsOf time.Time
	// SetAside is the file of the volume's earlier record if that could not be read,
	// in the first publish after that.
	SetAside string
	// Err is nil on success. Its text has no secret.
	Err error
	// Failures is the number of refreshes that failed in a row, including this one;
	// after a success, the number before it.
	Failures int
	// Repeated says that the refresh before failed for the same reason.
	Repeated bool
	Took     time.Duration
	// Steps are the times of the steps of a publish or refresh, as far as it went.
	Steps []StepTime
	// Trace is the id of the trace of this work, empty for none.
	Trace string
	// NextAt is the time of the next refresh or try; zero for none.
	NextAt time.Time
}

// Step is a part of a publish or refresh.
type Step string

// The steps.
const (
	StepClass  Step = "class"  // the class was looked up
	StepStore  Step = "store"  // the provider fetched
	StepMount  Step = "mount"  // the rest of the mount, or its check, after the store's answer
	StepWrite  Step = "write"  // the files were compared and written
	StepFollow Step = "follow" // Kubernetes Secrets were written and workloads restarted, where that is switched on
	StepRecord Step = "record" // the record was saved
)

// Steps returns all steps, in order.
func Steps() []Step {
	return []Step{StepClass, StepStore, StepMount, StepWrite, StepFollow, StepRecord}
}

// StepTime is the time that a step took.
type StepTime struct {
	Step Step
	Took time.Duration
}

// Reason returns the reason of the failure, empty on success.
func (o Outcome) Reason() fault.Reason {
	if o.Err == nil {
		return ""
	}
	return fault.Of(o.Err)
}

// workOf returns the attributes of a span.
func workOf(rec *Record) trace.Work {
	return trace.Work{PodNamespace: rec.Pod.Namespace, PodName: rec.Pod.Name, PodUID: rec.Pod.UID, Volume: rec.ID, Class: rec.Class.Name}
}

// endSpan ends the span of the work.
func (o *Outcome) endSpan(s trace.Span) {
	o.Trace = s.ID()
	s.Result(trace.Result{Provider: o.Provider, Asked: o.Asked, Changed: o.Changed})
	s.End(o.Err)
}

// Observer gets every outcome. It must not block, because the work waits for it.
type Observer interface {
	Observe(o Outcome)
}

// Observers calls several Observers in turn.
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

// loggedIDs bounds the ids in a log line. The audit trail has the others.
const loggedIDs = 4

// logRefresh logs the outcome of a refresh. Repeated failures have the level debug.
func (o *Outcome) logRefresh(log *slog.Logger) {
	log = log.With(logkey.Volume, o.ID, logkey.Pod, o.Pod.String(), logkey.Class, o.Class.String())
	if len(o.Asked) > 0 {
		log = log.With(logkey.Correlation, strings.Join(o.Asked[:min(len(o.Asked), loggedIDs)], ","))
	}
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
