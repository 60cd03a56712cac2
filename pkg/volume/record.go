package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/secret"
)

// Record is everything that is known of one volume, and all that a new process
// needs to go on with it.
type Record struct {
	Request
	Progress
	// Warned is the version of the class whose warnings the pod's author was
	// told of.
	Warned string `json:"warned,omitempty"`
	// LastClass is the class that the payload was made by. It serves while
	// the API server is away and this process has not seen the class, and
	// keeps the volume up while the class as it is now cannot be used.
	LastClass *class.Class `json:"-"`
	// Leaving is set once the volume is gone and only the revocation of its
	// credentials is left to do.
	Leaving bool `json:"leaving,omitempty"`
	// ProviderState is what the provider wants back after a restart.
	ProviderState secret.Bytes `json:"-"`
	// Stamp is when the record was written; it is the Store's.
	Stamp clock.Stamp `json:"stamp,omitzero"`
}

// Progress is how far a volume has come. There is no secret in it. Its slices are
// shared, and nobody changes them.
type Progress struct {
	// Provider is the one that the volume's credentials are of.
	Provider string             `json:"provider,omitempty"`
	Versions []provider.Version `json:"versions,omitempty"`
	// PublishedAt and RefreshedAt are the times of the first payload and of
	// the latest.
	PublishedAt time.Time `json:"publishedAt,omitzero"`
	RefreshedAt time.Time `json:"refreshedAt,omitzero"`
	// AsOf is the age of what the volume holds, where that came from the
	// node's memory while the store was away; zero after a refresh.
	AsOf time.Time `json:"asOf,omitzero"`
	// Size is what the payload takes of the node's memory, in bytes.
	Size int64 `json:"size,omitempty"`
	// Interval is the class's, or the driver's where the class has none.
	Interval time.Duration `json:"interval,omitempty"`
	// DueAt is when the next refresh is due.
	DueAt time.Time `json:"dueAt,omitzero"`
	// Ends are when the credentials in the volume end, EndsOf the objects that
	// they belong to, in the same order, and EndsDueAt when the provider wanted to
	// look after them; empty and zero where there are none. EndsOf is shorter in
	// a record of an earlier version.
	EndsDueAt time.Time   `json:"heldDueAt,omitzero"`
	Ends      []time.Time `json:"heldEnds,omitempty"`
	EndsOf    []string    `json:"heldObjects,omitempty"`
	// Failures counts the failed refreshes since the last success, and the
	// others are of the last one.
	Failures    int          `json:"failures,omitempty"`
	LastFailure string       `json:"lastFailure,omitempty"`
	LastReason  fault.Reason `json:"lastReason,omitempty"`
	FailedAt    time.Time    `json:"failedAt,omitzero"`
}

// MapMoments replaces the moments that something waits for. AsOf is for people.
// Copies keep theirs.
func (p *Progress) MapMoments(replace func(time.Time) time.Time) {
	for _, at := range []*time.Time{&p.PublishedAt, &p.RefreshedAt, &p.DueAt, &p.EndsDueAt, &p.FailedAt} {
		*at = replace(*at)
	}
	p.Ends = slices.Clone(p.Ends)
	for i, end := range p.Ends {
		p.Ends[i] = replace(end)
	}
}

// published tells whether the volume has held a complete payload.
func (p *Progress) published() bool { return !p.PublishedAt.IsZero() }

// setFailed notes a failed refresh and when to try again: in time for the
// credentials in the volume, which the run may have renewed all the same.
func (p *Progress) setFailed(w *result, err error) {
	now := time.Now()
	p.Failures++
	p.LastFailure, p.LastReason, p.FailedAt = err.Error(), fault.Of(err), now
	endsDue := w.refreshAt
	if !w.written {
		endsDue = credentialsDue(now, p.EndsDueAt, p.Ends)
	}
	p.DueAt = capDue(retryDue(now, p.Failures, p.Interval, err, chance()), now, endsDue)
}

// madeBy tells whether the payload was made by that version of the class.
func (r *Record) madeBy(version string) bool {
	return r.LastClass != nil && r.LastClass.ResourceVersion == version
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

// Store keeps the records over a restart.
type Store interface {
	// Put writes the record; on an error the earlier one still stands.
	Put(r *Record) error
	// Leave writes the record of a volume that is gone. On an error there is at
	// least the one that the live volume had.
	Leave(r *Record) error
	Delete(r *Record) error
	Load() (Loaded, error)
}

// Loaded is what an earlier process has left.
type Loaded struct {
	Records []*Record
	// SetAside are the records that could not be read, now or at an earlier
	// start, and in whose place none has been written since.
	SetAside []BadRecord
}

// BadRecord is a record that could not be read.
type BadRecord struct {
	// Key is the RecordKey of the volume, all that is known of it.
	Key string
	// File is where a person finds it.
	File string
	// Err is why it was set aside; nil if that was at an earlier start.
	Err error
}

// RecordKey names a volume's record. It is a hash: a volume id may be long
// and hold any character.
func RecordKey(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])
}
