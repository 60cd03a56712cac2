package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/budget"
	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Record is everything that the driver knows of one volume, and all that a new process
// needs to continue with it.
type Record struct {
	Request
	Progress
	// Warned is the version of the class about whose warnings the pod has an Event.
	Warned string `json:"warned,omitempty"`
	// LastClass is the class that made the payload. The driver uses it while the API
	// server does not answer, and while the current class cannot be used.
	LastClass *class.Class `json:"-"`
	// Leaving says that the volume is gone, and only the revocation of its credentials
	// is left to do.
	Leaving bool `json:"leaving,omitempty"`
	// ProviderState is the provider's state, for the next process.
	ProviderState secret.Bytes `json:"-"`
	// Stamp is when the record was written. The Store sets it.
	Stamp clock.Stamp `json:"stamp,omitzero"`
}

// Progress is the state of a volume's content. It has no secret. Its slices are shared
// and must not be changed.
type Progress struct {
	// Provider has the volume's credentials.
	Provider string             `json:"provider,omitempty"`
	Versions []provider.Version `json:"versions,omitempty"`
	// PublishedAt and RefreshedAt are the times of the first payload and of
	// the latest.
	PublishedAt time.Time `json:"publishedAt,omitzero"`
	RefreshedAt time.Time `json:"refreshedAt,omitzero"`
	// AsOf is the time of the content if it is from the node's memory, because the
	// store was unavailable; zero after a refresh.
	AsOf time.Time `json:"asOf,omitzero"`
	// Size is the memory of the payload, in bytes.
	Size int64 `json:"size,omitempty"`
	// Interval is the class's, or the driver's where the class has none.
	Interval time.Duration `json:"interval,omitempty"`
	// DueAt is when the next refresh is due.
	DueAt time.Time `json:"dueAt,omitzero"`
	// Ends are the times when the credentials in the volume expire, and EndsOf their
	// objects, in the same order; EndsDueAt is when the provider wants to renew them.
	// All are empty if there are none.
	EndsDueAt time.Time   `json:"heldDueAt,omitzero"`
	Ends      []time.Time `json:"heldEnds,omitempty"`
	EndsOf    []string    `json:"heldObjects,omitempty"`
	// Failures is the number of failed refreshes since the last success. The others
	// describe the last of them.
	Failures    int          `json:"failures,omitempty"`
	LastFailure string       `json:"lastFailure,omitempty"`
	LastReason  fault.Reason `json:"lastReason,omitempty"`
	FailedAt    time.Time    `json:"failedAt,omitzero"`
}

// MapMoments replaces the times that something waits for, which AsOf is not. It does
// not change copies.
func (p *Progress) MapMoments(replace func(time.Time) time.Time) {
	for _, at := range []*time.Time{&p.PublishedAt, &p.RefreshedAt, &p.DueAt, &p.EndsDueAt, &p.FailedAt} {
		*at = replace(*at)
	}
	p.Ends = slices.Clone(p.Ends)
	for i, end := range p.Ends {
		p.Ends[i] = replace(end)
	}
}

// published reports whether the volume has a complete payload.
func (p *Progress) published() bool { return !p.PublishedAt.IsZero() }

// setFailed records a failed refresh, and when to try again: in time for the credentials
// in the volume, which the failed run may have renewed. refreshAt is the provider's wish for
// what was written, if anything was. volumes is the number on this node.
func (p *Progress) setFailed(err error, written bool, refreshAt time.Time, volumes int) {
	now := time.Now()
	p.Failures++
	p.LastFailure, p.LastReason, p.FailedAt = err.Error(), fault.Of(err), now
	endsDue := refreshAt
	if !written {
		endsDue = credentialsDue(now, p.EndsDueAt, p.Ends)
	}
	p.DueAt = capDue(retryDue(now, p.Failures, p.Interval, err, volumes, chance()), now, endsDue)
}

// madeBy reports whether that version of the class made the payload.
func (r *Record) madeBy(version string) bool {
	return r.LastClass != nil && r.LastClass.ResourceVersion == version
}

// Owner is charged for the memory of the volume.
func (r *Record) Owner() budget.Owner {
	return budget.Owner{Namespace: r.Pod.Namespace, Volume: r.ID}
}

// ForRevocation returns the record of the volume once it is gone.
func (r *Record) ForRevocation() *Record {
	l := *r
	l.Leaving = true
	return &l
}

// Key identifies the record in the Store. A pending revocation has another key
// than a live volume of the same id.
func (r *Record) Key() string {
	if r.Leaving {
		return r.ID + "\x00" + r.Provider
	}
	return r.ID
}

// Store keeps the records for the next process.
type Store interface {
	// Put writes the record. After an error, the earlier one is still there.
	Put(r *Record) error
	// Leave writes the record of a gone volume. After an error, there is at least the
	// record of the live volume.
	Leave(r *Record) error
	Delete(r *Record) error
	Load() (Loaded, error)
}

// Loaded is what an earlier process has left.
type Loaded struct {
	Records []*Record
	// SetAside are the records that could not be read, now or at an earlier start, and
	// that no new record has replaced.
	SetAside []BadRecord
}

// BadRecord is a record that could not be read.
type BadRecord struct {
	// Key is the RecordKey of the volume. Nothing else is known of it.
	Key string
	// File is the path of the description.
	File string
	// Err is why it was set aside; nil if that was at an earlier start.
	Err error
}

// RecordKey returns the name of a volume's record. It is a hash, because a volume id
// may be long and contain any character.
func RecordKey(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])
}

// Identity identifies a volume and its pod.
type Identity struct {
	// ID is the CSI volume id.
	ID string `json:"id"`
	// Target is the path where kubelet wants the volume mounted.
	Target string       `json:"target"`
	Pod    identity.Pod `json:"pod"`
	Class  class.Ref    `json:"class"`
}

// Credentials are what kubelet passes with each call.
type Credentials struct {
	Tokens identity.Tokens `json:"-"`
	// TokensInSecrets says that kubelet passed the tokens with the secrets, and not in
	// the volume's context. Plugins get them in the same place.
	TokensInSecrets bool                     `json:"tokensInSecrets,omitempty"`
	Secrets         map[string]secret.String `json:"-"`
}

// Equal reports whether two calls passed the same credentials.
func (c Credentials) Equal(o Credentials) bool {
	return c.TokensInSecrets == o.TokensInSecrets && c.Tokens.Equal(o.Tokens) &&
		maps.EqualFunc(c.Secrets, o.Secrets, func(a, b secret.String) bool { return a.Reveal() == b.Reveal() })
}

// Request is a NodePublishVolume call, checked and parsed.
type Request struct {
	Identity
	Credentials
	// GID is the pod's fsGroup; nil for none.
	GID *uint32 `json:"gid,omitempty"`
	// SELinuxContext is the label that kubelet wants the mount to have.
	SELinuxContext string `json:"selinuxContext,omitempty"`
	// Ignored are the unknown volume attributes, sorted.
	Ignored []string `json:"ignored,omitempty"`
}

// conflict refuses a request with the id of a live volume and another target, pod or
// class.
func (i Identity) conflict(r Identity) error {
	switch {
	case i.Target != r.Target:
		return fault.New(fault.Conflict, "volume %s is already published at %q, not at %q", r.ID, i.Target, r.Target)
	case i.Pod.UID != r.Pod.UID:
		return fault.New(fault.Conflict, "volume %s is already published for pod %s (uid %s), not for %s (uid %s)", r.ID, i.Pod, i.Pod.UID, r.Pod, r.Pod.UID)
	case i.Class != r.Class:
		return fault.New(fault.Conflict, "volume %s is already published from class %s, not from %s", r.ID, i.Class, r.Class)
	}
	return nil
}

// KeptError is a failure after which the volume keeps its last good content. The
// caller must not return it as final: kubelet would unmount the volume.
type KeptError struct{ Err error }

func (e *KeptError) Error() string { return e.Err.Error() + "; the volume keeps its last good content" }

// Unwrap returns the failure.
func (e *KeptError) Unwrap() error { return e.Err }
