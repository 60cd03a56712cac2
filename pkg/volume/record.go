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

// Record is everything that is known of one volume, and all that a new
// process needs to go on with it.
type Record struct {
	// ID is the CSI volume id.
	ID string
	// Target is the path that kubelet named, where the tmpfs is mounted.
	Target string
	Pod    identity.Pod
	Class  class.Ref
	// GID is the pod's fsGroup, nil where it has none.
	GID *int
	// SELinuxContext is the label that kubelet asked the mount to have.
	SELinuxContext string
	Tokens         identity.Tokens
	// TokensInSecrets tells where kubelet passed the tokens, which is where
	// providers that run by themselves get them.
	TokensInSecrets bool
	Secrets         map[string]secret.String
	// Ignored are the volume attributes that mean nothing.
	Ignored []string
	// Warned is the edition of the class whose warnings the pod's author was
	// told of.
	Warned string

	// Provider is the class's provider at the last success, which is the one
	// that holds something for the volume.
	Provider string
	Versions []provider.Version
	// LastClass is the class that the payload was made by. It serves while
	// the API server is away and this process has not seen the class, and
	// keeps the volume up while the class as it is now cannot be used.
	LastClass *class.Class
	// PublishedAt and RefreshedAt are the times of the first payload and of
	// the latest.
	PublishedAt time.Time
	RefreshedAt time.Time
	// AsOf is the age of what the volume holds, where that came from the
	// node's memory while the store was away; zero after a refresh.
	AsOf time.Time
	// Size is what the payload takes of the node's memory, in bytes.
	Size int64
	// Interval is the class's, or the driver's where the class has none.
	Interval time.Duration
	// DueAt is when the next refresh is due.
	DueAt time.Time
	// HeldDueAt is when the provider wanted to look after the credentials in
	// the volume, and HeldEnds when those end unless it does; zero and empty
	// where there are none. HeldObjects are the objects that they belong to, in
	// the same order; a record of an earlier version has none.
	HeldDueAt   time.Time
	HeldEnds    []time.Time
	HeldObjects []string
	// Failures counts the failed refreshes since the last success, and the
	// others are of the last one.
	Failures    int
	LastFailure string
	LastReason  fault.Reason
	FailedAt    time.Time
	// Leaving is set once kubelet has unpublished the volume and only the
	// release of its credentials is left to do.
	Leaving bool
	// ProviderState is what the provider wants back after a restart.
	ProviderState secret.Bytes
	// Former are other providers that may still hold something for the
	// volume: the one before the class was edited, or one that an edit named
	// and that has not given a payload yet.
	Former []Held
	// Stamp is when the record was written; it is the Store's.
	Stamp clock.Stamp
}

// mapMoments replaces the moments that something waits for. AsOf is for people.
// Copies of the record keep theirs.
func (r *Record) mapMoments(replace func(time.Time) time.Time) {
	for _, at := range []*time.Time{&r.PublishedAt, &r.RefreshedAt, &r.DueAt, &r.HeldDueAt, &r.FailedAt} {
		*at = replace(*at)
	}
	r.HeldEnds = slices.Clone(r.HeldEnds)
	for i, end := range r.HeldEnds {
		r.HeldEnds[i] = replace(end)
	}
}

// published tells whether the volume has held a complete payload.
func (r *Record) published() bool { return !r.PublishedAt.IsZero() }

// madeBy tells whether the payload was made by that version of the class.
func (r *Record) madeBy(version string) bool {
	return r.LastClass != nil && r.LastClass.ResourceVersion == version
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
	ID             string             `json:"id"`
	Target         string             `json:"target"`
	Pod            identity.Pod       `json:"pod"`
	Class          class.Ref          `json:"class"`
	GID            *int               `json:"gid,omitempty"`
	SELinuxContext string             `json:"selinuxContext,omitempty"`
	Tokens         identity.Plain     `json:"tokens,omitempty"`
	InSecrets      bool               `json:"tokensInSecrets,omitempty"`
	Secrets        map[string]string  `json:"secrets,omitempty"`
	Provider       string             `json:"provider,omitempty"`
	Versions       []provider.Version `json:"versions,omitempty"`
	ClassFile      string             `json:"classFile,omitempty"`
	LastClass      json.RawMessage    `json:"lastClass,omitempty"` // of earlier versions, which had it within
	PublishedAt    time.Time          `json:"publishedAt,omitzero"`
	RefreshedAt    time.Time          `json:"refreshedAt,omitzero"`
	AsOf           time.Time          `json:"asOf,omitzero"`
	Size           int64              `json:"size,omitempty"`
	Interval       time.Duration      `json:"interval,omitempty"`
	DueAt          time.Time          `json:"dueAt,omitzero"`
	HeldDueAt      time.Time          `json:"heldDueAt,omitzero"`
	HeldEnds       []time.Time        `json:"heldEnds,omitempty"`
	HeldObjects    []string           `json:"heldObjects,omitempty"`
	Failures       int                `json:"failures,omitempty"`
	LastFailure    string             `json:"lastFailure,omitempty"`
	LastReason     fault.Reason       `json:"lastReason,omitempty"`
	FailedAt       time.Time          `json:"failedAt,omitzero"`
	Leaving        bool               `json:"leaving,omitempty"`
	Ignored        []string           `json:"ignored,omitempty"`
	Warned         string             `json:"warned,omitempty"`
	Former         []wireHeld         `json:"former,omitempty"`
	Stamp          clock.Stamp        `json:"stamp,omitzero"`
}

type wireHeld struct {
	Provider string `json:"provider"`
	State    []byte `json:"state,omitempty"`
}

// encodeRecord gives the file in parts, which follow one another. One of them
// is in the room that it is given. The class is not in it but in the file that
// it names.
func encodeRecord(r *Record, classFile string, room *bytes.Buffer) ([][]byte, error) {
	w := wire{
		ID: r.ID, Target: r.Target, Pod: r.Pod, Class: r.Class, GID: r.GID, SELinuxContext: r.SELinuxContext,
		Tokens: r.Tokens.Reveal(), InSecrets: r.TokensInSecrets, Provider: r.Provider, Versions: r.Versions, ClassFile: classFile,
		PublishedAt: r.PublishedAt, RefreshedAt: r.RefreshedAt, AsOf: r.AsOf, Size: r.Size, Interval: r.Interval, DueAt: r.DueAt,
		HeldDueAt: r.HeldDueAt, HeldEnds: r.HeldEnds, HeldObjects: r.HeldObjects,
		Failures: r.Failures, LastFailure: r.LastFailure, LastReason: r.LastReason, FailedAt: r.FailedAt, Leaving: r.Leaving, Ignored: r.Ignored, Warned: r.Warned, Stamp: r.Stamp,
	}
	if len(r.Secrets) > 0 {
		w.Secrets = make(map[string]string, len(r.Secrets))
		for k, v := range r.Secrets {
			w.Secrets[k] = v.Reveal()
		}
	}
	for _, h := range r.Former {
		w.Former = append(w.Former, wireHeld{h.Provider, h.State.Reveal()})
	}
	if err := json.NewEncoder(room).Encode(w); err != nil {
		return nil, fault.New(fault.State, "encoding the record of volume %s: %w", r.ID, err)
	}
	body, state := room.Bytes(), r.ProviderState.Reveal()
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

// namedClass is where a record's class is: in a file of its own or, in records
// of earlier versions, within.
type namedClass struct {
	file   string
	within json.RawMessage
}

// decodeRecord gives the record without its class. It never quotes what it
// read: it may hold tokens.
func decodeRecord(data []byte) (*Record, namedClass, error) {
	w, state, err := decodeWire(data)
	if err != nil {
		return nil, namedClass{}, err
	}
	tokens, err := w.Tokens.Tokens()
	if err != nil || w.ID == "" || w.Target == "" {
		return nil, namedClass{}, fmt.Errorf("%w: a field is missing or malformed", errCorrupt)
	}
	r := w.record(tokens)
	if len(state) > 0 {
		r.ProviderState = secret.NewBytes(state)
	}
	return r, namedClass{w.ClassFile, w.LastClass}, nil
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
	w = &wire{}
	if json.Unmarshal(body[:h.Record], w) != nil {
		return nil, nil, fmt.Errorf("%w: a field has the wrong type", errCorrupt)
	}
	return w, body[h.Record:], nil
}

func (w *wire) record(tokens identity.Tokens) *Record {
	r := &Record{
		ID: w.ID, Target: w.Target, Pod: w.Pod, Class: w.Class, GID: w.GID, SELinuxContext: w.SELinuxContext,
		Tokens: tokens, TokensInSecrets: w.InSecrets, Provider: w.Provider, Versions: w.Versions,
		PublishedAt: w.PublishedAt, RefreshedAt: w.RefreshedAt, AsOf: w.AsOf, Size: w.Size, Interval: w.Interval, DueAt: w.DueAt,
		HeldDueAt: w.HeldDueAt, HeldEnds: w.HeldEnds, HeldObjects: w.HeldObjects,
		Failures: w.Failures, LastFailure: w.LastFailure, LastReason: w.LastReason, FailedAt: w.FailedAt, Leaving: w.Leaving, Ignored: w.Ignored, Warned: w.Warned, Stamp: w.Stamp,
	}
	if len(w.Secrets) > 0 {
		r.Secrets = make(map[string]secret.String, len(w.Secrets))
		for k, v := range w.Secrets {
			r.Secrets[k] = secret.NewString(v)
		}
	}
	for _, h := range w.Former {
		r.Former = append(r.Former, Held{h.Provider, secret.NewBytes(h.State)})
	}
	return r
}
