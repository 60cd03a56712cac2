package secretsync

import (
	"context"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/kubeclient/corev1"
	"github.com/mayfly-csi/mayfly/pkg/logkey"
	"github.com/mayfly-csi/mayfly/pkg/status"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// The reasons of the Events on the pod and on the class.
const (
	SecretNotWritten = names.SecretNotWritten
	SecretWritten    = names.SecretWritten
)

// maxWords bounds the API server's text in an error, in bytes.
const maxWords = 400

// NotOurs is the end of the refusal by the chart's ValidatingAdmissionPolicy for a Secret
// that this driver has not made.
const NotOurs = "which Mayfly has not made"

// isRace reports whether another client wrote or deleted the Secret after the look.
func isRace(err error) bool { return apierrors.IsConflict(err) && !isFieldConflict(err) }

func isFieldConflict(err error) bool {
	return apierrors.IsConflict(err) && apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict)
}

// classify explains the API server's refusal.
func classify(w wish, err error) (Result, error) {
	text := err.Error()
	said := fmt.Errorf("%s", status.Clip(text, maxWords))
	switch {
	case isFieldConflict(err):
		return Foreign, fault.New(fault.Conflict, "another field manager has set what the class sets: %w", said).
			WithHint("take the change back, or delete the Secret: Mayfly then makes it again")
	case apierrors.IsForbidden(err) && (strings.Contains(text, "cannot patch resource") || strings.Contains(text, "cannot create resource")):
		return Forbidden, fault.New(fault.NotAllowed, "the driver may not write it: %w", said).
			WithHint("it needs the rights to create and patch Secret %q in namespace %q: list it in the chart's syncSecret.secrets, or the namespace in syncSecret.namespaces", w.entry.SecretName, w.class.Namespace)
	case apierrors.IsForbidden(err) && strings.Contains(text, NotOurs):
		return Foreign, fault.New(fault.Conflict, "%w", said).
			WithHint("delete it, or give the class's entry another secretName; Mayfly never takes over what it has not made")
	case apierrors.IsForbidden(err) && apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return Failed, fault.New(fault.Canceled, "the namespace is going away")
	case apierrors.IsForbidden(err):
		return Invalid, fault.New(fault.NotAllowed, "the API server refuses it: %w", said)
	case apierrors.IsInvalid(err) && strings.Contains(text, "type: Invalid value"):
		return Invalid, fault.New(fault.InvalidClass, "the type of a Secret cannot change: %w", said).
			WithHint("delete the Secret: Mayfly, which may not, then makes it again with the class's type")
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsRequestEntityTooLargeError(err):
		return Invalid, fault.New(fault.InvalidClass, "the API server refuses it: %w", said)
	}
	return Failed, fault.New(fault.Unavailable, "asking the API server: %w", said)
}

// record saves the result of a try, and reports it in the log and in Events.
func (s *Syncer) record(f volume.Followed, k key, st *state, result Result, err error) {
	failed := st.failure != nil
	s.Count(result)
	st.last, st.failure = result, nil
	if err == nil {
		st.failures = 0
		if failed && result != Outdated {
			s.tell(f, k, corev1.EventTypeNormal, SecretWritten, "the Secret is as the class wants it again")
		}
		return
	}
	st.failure = err
	st.failures++
	log := s.Logger.Debug
	if !failed {
		log = s.Logger.Warn
	}
	log("Kubernetes Secret not written", logkey.Secret, k.class.Namespace+"/"+k.secret, logkey.Class, k.class.String(), logkey.Pod, f.Pod.String(), logkey.Result, string(result), logkey.Error, err)
	s.tell(f, k, corev1.EventTypeWarning, SecretNotWritten, err.Error())
}

// tell writes an Event on the pod and one on the class.
func (s *Syncer) tell(f volume.Followed, k key, kind, reason, text string) {
	text = fmt.Sprintf("SecretProviderClass %s: Kubernetes Secret %q: %s", k.class, k.secret, text)
	status.TellPodAndClass(s.Events, f, kind, reason, k.secret, text)
}

// Off is used instead of a Syncer if Secrets are not switched on: it warns of classes with
// secretObjects.
type Off struct{}

// Idle implements volume.Follower.
func (Off) Idle() bool { return true }

// Warnings implements volume.Follower.
func (Off) Warnings(c *class.Class) []string {
	if len(c.SecretObjects) == 0 {
		return nil
	}
	const most = 20
	var list []string
	for _, o := range c.SecretObjects {
		list = append(list, o.SecretName)
	}
	return []string{fmt.Sprintf("spec.secretObjects: this driver writes no Kubernetes Secrets, so %q is not made or updated: read the file, or have the operator set the chart's syncSecret.enabled", list[:min(len(list), most)])}
}

// Follow implements volume.Follower.
func (Off) Follow(context.Context, volume.Followed) time.Time { return time.Time{} }
