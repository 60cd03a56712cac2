package status

import (
	"errors"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/mayfly-csi/mayfly/pkg/apis/secretsstore/v1"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// The reasons of conditions that are True, and of those that are False without a failure.
const (
	reasonMounted   = "Mounted"
	reasonRefreshed = "Refreshed"
	reasonSecond    = "SecondAddress"
	reasonNone      = "NoWarnings"
)

// ownConditions are all that the driver writes; others may write more.
var ownConditions = []string{names.Ready, names.Fresh, names.ClassValid}

// conditionsOf returns the conditions of a volume after an outcome; before are its earlier ones.
func conditionsOf(o volume.Outcome, before []metav1.Condition) []metav1.Condition {
	now := metav1.NewTime(time.Now().UTC().Truncate(time.Second))
	list := []metav1.Condition{readyOf(o), freshOf(o)}
	if o.Kind != volume.Recovered { // which has not read the class
		list = append(list, classValidOf(o))
	}
	for i := range list {
		c := &list[i]
		c.LastTransitionTime = now
		old := conditionOf(before, c.Type)
		if old == nil || old.Status != c.Status {
			continue
		}
		c.LastTransitionTime = old.LastTransitionTime
		if old.Reason == c.Reason && c.Type != names.ClassValid {
			c.Message = old.Message // one write per series of failures: the text may have a request's id or a time
		}
	}
	return list
}

func readyOf(o volume.Outcome) metav1.Condition {
	var kept *volume.KeptError
	switch {
	case o.Emptied:
		return isFalse(names.Ready, string(o.Reason()), names.EmptiedMessage)
	case o.Err != nil && o.Kind == volume.Published && !errors.As(o.Err, &kept):
		return isFalse(names.Ready, string(o.Reason()), "the first mount failed, and kubelet tries again: Fresh says why")
	}
	return isTrue(names.Ready, reasonMounted, "the volume is mounted with its complete payload")
}

func freshOf(o volume.Outcome) metav1.Condition {
	switch {
	case o.Err != nil:
		return isFalse(names.Fresh, string(o.Reason()), o.Err.Error())
	case !o.AsOf.IsZero():
		return isFalse(names.Fresh, names.LastGoodUsed, "the store is unavailable, and the volume has what this node read at "+o.AsOf.UTC().Format(time.RFC3339))
	}
	if o.AnsweredBy != "" {
		return isTrue(names.Fresh, reasonSecond, "the last look at the store succeeded, at its second address "+o.AnsweredBy+": the first is away")
	}
	return isTrue(names.Fresh, reasonRefreshed, "the last look at the store succeeded")
}

func classValidOf(o volume.Outcome) metav1.Condition {
	if len(o.Warnings) > 0 {
		return isFalse(names.ClassValid, names.ClassWarning, strings.Join(o.Warnings, "; "))
	}
	return isTrue(names.ClassValid, reasonNone, "nothing in the class is ignored")
}

func isTrue(kind, reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: reason, Message: message}
}

func isFalse(kind, reason, message string) metav1.Condition {
	return metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: clip(message)}
}

func conditionOf(list []metav1.Condition, kind string) *metav1.Condition {
	i := slices.IndexFunc(list, func(c metav1.Condition) bool { return c.Type == kind })
	if i < 0 {
		return nil
	}
	return &list[i]
}

// equalConditions compares all that the driver writes, except the times.
func equalConditions(a, b []metav1.Condition) bool {
	for _, kind := range ownConditions {
		x, y := conditionOf(a, kind), conditionOf(b, kind)
		if (x == nil) != (y == nil) || x != nil && (x.Status != y.Status || x.Reason != y.Reason || x.Message != y.Message) {
			return false
		}
	}
	return true
}

// mergedConditions returns own, with the times of the conditions in have that say the same, and the
// conditions that others have written.
func mergedConditions(own, have []metav1.Condition) []metav1.Condition {
	out := slices.Clone(own)
	for i := range out {
		if old := conditionOf(have, out[i].Type); old != nil && old.Status == out[i].Status {
			out[i].LastTransitionTime = old.LastTransitionTime
		}
	}
	for _, c := range have {
		if !slices.Contains(ownConditions, c.Type) {
			out = append(out, c)
		}
	}
	return out
}

// withWarningsOf keeps the written class warnings of a recovered volume, because the driver has not
// read its class yet.
func withWarningsOf(want, have *v1.SecretProviderClassPodStatus) *v1.SecretProviderClassPodStatus {
	if conditionOf(want.Status.Conditions, names.ClassValid) != nil {
		return want
	}
	out := want.DeepCopy()
	if c := conditionOf(have.Status.Conditions, names.ClassValid); c != nil {
		out.Status.Conditions = append(out.Status.Conditions, *c)
	}
	if text := have.Annotations[names.WarningsAnnotation]; text != "" {
		metav1.SetMetaDataAnnotation(&out.ObjectMeta, names.WarningsAnnotation, text)
	}
	return out
}
