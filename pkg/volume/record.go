package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/class"
	"github.com/mayfly-csi/mayfly/pkg/clock"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/identity"
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

// mapMoments replaces the moments that something waits for. AsOf is for people.
// Copies keep theirs.
func (p *Progress) mapMoments(replace func(time.Time) time.Time) {
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

// leaving is the record of the volume once it is gone.
func (r *Record) leaving() *Record {
	l := *r
	l.Leaving = true
	return &l
}

// key names the record in the state. A revocation that is still to come must not
// be in the way of a new volume of the same id.
func (r *Record) key() string {
	if r.Leaving {
		return r.ID + "\x00" + r.Provider
	}
	return r.ID
}

// recordVersion is the version of the format below. A reader refuses what is
// newer, and the file is set aside.
const recordVersion = 1

// header is the first line of a record's file. The record's JSON follows, and
// then what the provider keeps, as it came; the checksum covers both.
type header struct {
	Version  int    `json:"version"`
	Checksum string `json:"sha256"`
	// Record is the size of the record's JSON in bytes.
	Record int `json:"record"`
}

// wire is the Record as the file has it, with the secrets in plain: the file
// lies in a tmpfs that only root can read.
type wire struct {
	*Record
	Tokens    identity.Plain    `json:"tokens,omitempty"`
	Secrets   map[string]string `json:"secrets,omitempty"`
	ClassFile string            `json:"classFile,omitempty"`
	// Earlier versions had the class within, and other providers that still had
	// credentials of the volume.
	LastClass json.RawMessage  `json:"lastClass,omitempty"`
	Former    []formerProvider `json:"former,omitempty"`
}

type formerProvider struct {
	Provider string `json:"provider"`
	State    []byte `json:"state,omitempty"`
}

// encodeRecord gives the file in parts, which follow one another. One of them
// is in the buffer that it is given. The class is not in it but in the file that
// it names.
func encodeRecord(r *Record, classFile string, buffer *bytes.Buffer) ([][]byte, error) {
	w := wire{Record: r, Tokens: r.Tokens.Reveal(), ClassFile: classFile}
	if len(r.Secrets) > 0 {
		w.Secrets = make(map[string]string, len(r.Secrets))
		for k, v := range r.Secrets {
			w.Secrets[k] = v.Reveal()
		}
	}
	if err := json.NewEncoder(buffer).Encode(w); err != nil {
		return nil, fault.New(fault.State, "encoding the record of volume %s: %w", r.ID, err)
	}
	body, state := buffer.Bytes(), r.ProviderState.Reveal()
	sum := sha256.New()
	sum.Write(body)
	sum.Write(state)
	line, err := json.Marshal(header{recordVersion, hex.EncodeToString(sum.Sum(nil)), len(body)})
	if err != nil {
		return nil, fault.New(fault.State, "encoding the record of volume %s: %w", r.ID, err)
	}
	return [][]byte{append(line, '\n'), body, state}, nil
}

// errCorrupt is why a record is set aside instead of used.
var errCorrupt = errors.New("corrupt record")

// decodeRecord gives the record without its class, which the second value names.
// It never quotes what it read: there may be tokens in it.
func decodeRecord(data []byte) (*Record, *wire, error) {
	w, state, err := decodeWire(data)
	if err != nil {
		return nil, nil, err
	}
	r := w.Record
	if r.Tokens, err = w.Tokens.Tokens(); err != nil || r.ID == "" || r.Target == "" {
		return nil, nil, fmt.Errorf("%w: a field is missing or malformed", errCorrupt)
	}
	if len(w.Secrets) > 0 {
		r.Secrets = make(map[string]secret.String, len(w.Secrets))
		for k, v := range w.Secrets {
			r.Secrets[k] = secret.NewString(v)
		}
	}
	if len(state) > 0 {
		r.ProviderState = secret.NewBytes(state)
	}
	return r, w, nil
}

func decodeWire(data []byte) (w *wire, state []byte, err error) {
	line, body, _ := bytes.Cut(data, []byte("\n"))
	var h header
	if json.Unmarshal(line, &h) != nil {
		return nil, nil, fmt.Errorf("%w: not a record file", errCorrupt)
	}
	if h.Version != recordVersion {
		return nil, nil, fmt.Errorf("%w: its version is %d, this driver reads %d", errCorrupt, h.Version, recordVersion)
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != h.Checksum || h.Record < 0 || h.Record > len(body) {
		return nil, nil, fmt.Errorf("%w: the checksum does not match", errCorrupt)
	}
	w = &wire{Record: &Record{}}
	if json.Unmarshal(body[:h.Record], w) != nil {
		return nil, nil, fmt.Errorf("%w: a field has the wrong type", errCorrupt)
	}
	return w, body[h.Record:], nil
}
