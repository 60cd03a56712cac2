// Package rollout restarts workloads when a secret has rotated, where a class
// names them and the operator has switched that on: for programs that read their
// files, or variables from a Kubernetes Secret, once.
//
// It goes by state, not by events. What it puts on the pod template is a hash of
// the objects' versions, which every node computes alike, so that any number of
// nodes makes one rollout, and a write that was lost is made good by the next
// refresh:
//
//  1. A refresh that wrote other contents wants the hash of what it wrote. A first
//     publish, an edit of the class, and a payload from memory want nothing.
//  2. Credentials that end are refused: each pod has its own.
//  3. A workload that has the hash is done with. One that is paused, or whose last
//     rollout is not over or was a moment ago, is looked at again by later
//     refreshes.
//  4. Else the annotation is set, at the resourceVersion that was looked at.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fair"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient/corev1"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/status"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

const (
	// gap is the least time between two restarts of one workload.
	gap = 5 * time.Minute
	// patience bounds what the workloads of one refresh take.
	patience = 10 * time.Second
	// tries bounds how often a workload is looked at while others write it.
	tries = 4
	// maxWords bounds the API server's words in an Event, in bytes.
	maxWords = 400
)

// The reasons of the Events.
const (
	Restarted    = names.RolloutRestarted
	NotRestarted = names.RolloutNotRestarted
)

// API is what is needed of the API server.
type API interface {
	Get(ctx context.Context, namespace string, w class.Workload) (*Object, error)
	// Annotate sets an annotation of the pod template, if the object is still of
	// that resourceVersion.
	Annotate(ctx context.Context, o *Object, key, value string) error
}

// Config is what a Restarter is made of. Every field is needed.
type Config struct {
	API    API
	Events status.Teller
	Logger *slog.Logger
	// Count counts restarts.
	Count func()
}

// Restarter implements volume.Follower and volume.Observer.
type Restarter struct {
	Config
	mu sync.Mutex
	// open are the restarts that volumes want and that are not done with, by the
	// volume's id.
	open map[string]wish
	// turns has one slot for each workload.
	turns *fair.Semaphore
}

// wish is what a volume's last rotation wants.
type wish struct {
	hash string
	// readAt is when the store was asked for the newest of the contents.
	readAt time.Time
}

// New starts nothing.
func New(c Config) (*Restarter, error) {
	if c.API == nil || c.Events == nil || c.Logger == nil || c.Count == nil {
		return nil, errors.New("rollout: API, Events, Logger and Count must be set")
	}
	return &Restarter{Config: c, open: map[string]wish{}, turns: fair.New(0, 1)}, nil
}

// Warnings implements volume.Follower.
func (r *Restarter) Warnings(*class.Class) []string { return nil }

// Observe implements volume.Observer: it forgets the volumes that are gone.
func (r *Restarter) Observe(o volume.Outcome) {
	if o.Kind == volume.Unpublished && o.Err == nil {
		r.close(o.ID)
	}
}

// Idle implements volume.Follower.
func (*Restarter) Idle() bool { return false }

// Follow implements volume.Follower.
func (r *Restarter) Follow(ctx context.Context, f volume.Followed) (again time.Time) {
	if len(f.Class.RolloutRestart) == 0 {
		r.close(f.Volume)
		return time.Time{}
	}
	if len(f.Leases) > 0 {
		r.close(f.Volume)
		status.TellPodAndClass(r.Events, f, corev1.EventTypeWarning, NotRestarted, f.Leases[0].Object, fmt.Sprintf(
			"spec.parameters.%s: no workload is restarted, since object %q is a credential that ends and is issued for each pod: its renewals would restart everything again and again. Take it into a class of its own",
			class.RolloutRestartKey, f.Leases[0].Object))
		return time.Time{}
	}
	w, wanted := r.wishOf(f)
	if !wanted {
		return time.Time{}
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	done := true
	for _, workload := range f.Class.RolloutRestart {
		at, over := r.restart(ctx, f, w, workload)
		done = done && over
		again = clock.Earliest(again, at)
	}
	if done {
		r.close(f.Volume)
	}
	return again
}

// wishOf is what a volume wants: by this refresh, or by an earlier one that is not
// done with.
func (r *Restarter) wishOf(f volume.Followed) (wish, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case f.First, f.Edited, f.Recalled: // the pod has read this, or nothing has rotated
		delete(r.open, f.Volume)
	case f.Changed:
		w := wish{hash: provider.Digest(f.Versions)}
		for _, file := range f.Files {
			if file.ReadAt.After(w.readAt) {
				w.readAt = file.ReadAt
			}
		}
		r.open[f.Volume] = w
	}
	w, ok := r.open[f.Volume]
	return w, ok
}

func (r *Restarter) close(volume string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, volume)
}

// restart restarts a workload, unless it is done with. over tells that nothing is
// left to do, and at is when to come again.
func (r *Restarter) restart(ctx context.Context, f volume.Followed, w wish, workload class.Workload) (at time.Time, over bool) {
	turn := f.Class.Namespace + " " + workload.String()
	if r.turns.Acquire(ctx, turn) != nil {
		return time.Time{}, false
	}
	defer r.turns.Release(turn)
	for range tries {
		o, err := r.API.Get(ctx, f.Class.Namespace, workload)
		if err != nil {
			return time.Time{}, r.failed(f, workload, err)
		}
		v := decide(o, f, w, time.Now())
		if v.over || v.why != "" {
			if v.why != "" {
				r.Logger.Info("workload is not restarted yet", logkey.Workload, workload.String(), logkey.Class, f.Class.String(), logkey.Reason, v.why)
			}
			return v.at, v.over
		}
		err = r.API.Annotate(ctx, o, KeyOf(f.Class.Ref), Mark{w.hash, time.Now()}.String())
		if apierrors.IsConflict(err) {
			continue
		}
		if err != nil {
			return time.Time{}, r.failed(f, workload, err)
		}
		r.Count()
		r.Logger.Info("workload restarted for a rotation", logkey.Workload, workload.String(), logkey.Class, f.Class.String(), logkey.Pod, f.Pod.String())
		r.Events.Tell(status.Note{
			Volume: status.ClassKey(f.Class), Namespace: f.Class.Namespace, About: o.Reference(), Type: corev1.EventTypeNormal, Reason: Restarted,
			Topic: workload.String(), Text: fmt.Sprintf("restarted, since a secret of SecretProviderClass %s has rotated", f.Class.Ref),
		})
		return time.Time{}, true
	}
	return time.Time{}, false
}

// failed reports a workload that cannot be restarted. over means that another try
// before the next rotation would fail too.
func (r *Restarter) failed(f volume.Followed, w class.Workload, err error) (over bool) {
	r.Logger.Warn("restarting a workload failed", logkey.Workload, w.String(), logkey.Class, f.Class.String(), logkey.Error, err)
	text := fmt.Sprintf("SecretProviderClass %s: restarting %s: %s", f.Class.Ref, w, status.Clip(err.Error(), maxWords))
	if apierrors.IsForbidden(err) && (strings.Contains(text, "cannot get") || strings.Contains(text, "cannot patch")) {
		text += fmt.Sprintf(" (the driver needs the rights to get and patch it: list it in the chart's rolloutRestart.workloads.%s)", f.Class.Namespace)
	}
	status.TellPodAndClass(r.Events, f, corev1.EventTypeWarning, NotRestarted, w.String(), text)
	return apierrors.IsForbidden(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err)
}

// decision is what is to become of a workload now: nothing more (over), nothing yet
// (why, and at for when to look), or a restart.
type decision struct {
	over bool
	why  string
	at   time.Time
}

func decide(o *Object, f volume.Followed, w wish, now time.Time) decision {
	mark, has := o.mark(KeyOf(f.Class.Ref))
	switch {
	case has && mark.Hash == w.hash && !f.Since.After(mark.At):
		return decision{over: true}
	case has && mark.Hash != w.hash && mark.At.After(w.readAt): // for a later read than this
		return decision{over: true}
	case o.onDelete():
		return decision{why: "its update strategy is OnDelete"}
	case o.Spec.Paused:
		return decision{why: "it is paused"}
	case !o.rolledOut():
		return decision{why: "its last rollout is not over"}
	}
	if at := o.lastRestart().Add(gap); at.After(now) {
		return decision{why: fmt.Sprintf("it was restarted less than %s ago", gap), at: at}
	}
	return decision{}
}

// Off replaces a Restarter if restarts are not enabled: it warns about classes that
// request them.
type Off struct{}

// Follow implements volume.Follower.
func (Off) Follow(context.Context, volume.Followed) time.Time { return time.Time{} }

// Idle implements volume.Follower.
func (Off) Idle() bool { return true }

// Warnings implements volume.Follower.
func (Off) Warnings(c *class.Class) []string {
	if len(c.RolloutRestart) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("spec.parameters.%s: this driver restarts no workloads, as the operator has not set the chart's rolloutRestart.enabled", class.RolloutRestartKey)}
}
