package secretsync

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/mayfly-csi/mayfly/pkg/secretsync/ownership"
	"github.com/mayfly-csi/mayfly/pkg/status/names"
)

// Result is the result for one Secret.
type Result string

// The results; metrics count them.
const (
	Written   Result = "written"
	Unchanged Result = "unchanged" // it had the wanted content already
	Outdated  Result = "outdated"  // it is of a later read or class, and stays
	Foreign   Result = "foreign"   // another owner has the Secret, or a field of it
	Forbidden Result = "forbidden" // the driver lacks the right
	Invalid   Result = "invalid"   // the files do not fit its type, or the API server refuses it
	Failed    Result = "failed"    // the API server did not answer, or failed
)

// Results returns all results.
func Results() []Result {
	return []Result{Written, Unchanged, Outdated, Foreign, Forbidden, Invalid, Failed}
}

// judge compares the existing Secret with the wanted one: Written means that it must be
// written. insist says that the volume was just published, or its content has just
// changed; a certificate is replaced without that.
func judge(found *metav1.PartialObjectMetadata, w *wanted, insist bool, now time.Time) Result {
	if found == nil {
		return Written
	}
	own := ownership.EntryOf(found, w.class.Name)
	if own == nil {
		return Foreign
	}
	has := contentOf(found)
	if has.digest == w.digest {
		if ownsData(own, w.data) && hasOwners(found, w) {
			return Unchanged
		}
		return Written
	}
	write := insist
	if has.hasAllBut(w.content) {
		at := has.replaceAt(w.content)
		write = !at.IsZero() && !now.Before(at)
	}
	if !write || has.newer(w.content) {
		return Outdated
	}
	return Written
}

// ownsData reports whether the manager still owns all keys: a client that changes a value
// becomes the owner of its field.
func ownsData(own *metav1.ManagedFieldsEntry, data map[string][]byte) bool {
	if own.FieldsV1 == nil {
		return false
	}
	var fields struct {
		Data map[string]json.RawMessage `json:"f:data"`
	}
	if json.Unmarshal(own.FieldsV1.GetRawBytes(), &fields) != nil {
		return false
	}
	for key := range data {
		if _, ok := fields.Data["f:"+key]; !ok {
			return false
		}
	}
	return true
}

func hasOwners(found *metav1.PartialObjectMetadata, w *wanted) bool {
	for _, o := range w.owners() {
		if !slices.ContainsFunc(found.OwnerReferences, func(h metav1.OwnerReference) bool { return h.UID == o.UID }) {
			return false
		}
	}
	return true
}

// contentOf reads the annotations of a Secret. What is missing or damaged there is zero.
func contentOf(found *metav1.PartialObjectMetadata) content {
	has := found.Annotations
	c := content{digest: has[names.DigestAnnotation], classVersion: has[names.ClassVersionAnnotation]}
	c.readAt, _ = time.Parse(time.RFC3339Nano, has[names.ReadAtAnnotation])
	c.expires, _ = time.Parse(time.RFC3339, has[names.ExpiresAnnotation])
	return c
}

// newer reports whether the Secret is of a later version of the class or a later read of
// the store.
func (has content) newer(w content) bool {
	return laterVersion(has.classVersion, w.classVersion) || has.readAt.After(w.readAt)
}

// laterVersion compares two versions of a class of the API server.
func laterVersion(a, b string) bool {
	x, err := strconv.ParseUint(a, 10, 64)
	y, err2 := strconv.ParseUint(b, 10, 64)
	return err == nil && err2 == nil && x > y
}

// hasAllBut reports whether the Secret has all that the volume has, but another
// certificate: each pod gets its own, and they must not replace each other. It has not if
// the class was edited since: the certificates may differ for that.
func (has content) hasAllBut(w content) bool {
	return !w.expires.IsZero() && !has.expires.IsZero() && withoutCertificates(has.digest) == withoutCertificates(w.digest) &&
		!laterVersion(w.classVersion, has.classVersion)
}

// replaceAt returns when the volume's certificate replaces that of the Secret: when it will last
// twice as long. Zero is never.
func (has content) replaceAt(w content) time.Time {
	if !w.expires.After(has.expires) {
		return time.Time{}
	}
	return has.expires.Add(has.expires.Sub(w.expires))
}
