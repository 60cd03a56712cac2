package audit

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
	"github.com/mayfly-csi/mayfly/pkg/fault"
	"github.com/mayfly-csi/mayfly/pkg/printable"
	"github.com/mayfly-csi/mayfly/pkg/provider"
	"github.com/mayfly-csi/mayfly/pkg/volume"
)

// apiVersion is the version of the format. It changes if the meaning of a field
// changes, and not if a field is added.
const apiVersion = chain.Version

// lost is the event of a line that only has the number of lost lines.
const lost = "lost"

// line is the format of a line; docs/audit.md explains every field. No field can
// contain the contents of an object or a token.
type line struct {
	APIVersion     string   `json:"apiVersion"`
	Time           string   `json:"time"`
	Event          string   `json:"event"`
	Outcome        string   `json:"outcome,omitempty"`
	Reason         string   `json:"reason,omitempty"`
	Error          string   `json:"error,omitempty"`
	Node           string   `json:"node"`
	Pod            pod      `json:"pod,omitzero"`
	ServiceAccount account  `json:"serviceAccount,omitzero"`
	Class          classRef `json:"class,omitzero"`
	Provider       string   `json:"provider,omitempty"`
	Store          store    `json:"store,omitzero"`
	AnsweredBy     string   `json:"answeredBy,omitempty"`
	Volume         string   `json:"volume,omitempty"`
	Objects        []object `json:"objects,omitempty"`
	ObjectsOmitted int      `json:"objectsOmitted,omitempty"`
	ObjectsDigest  string   `json:"objectsDigest,omitempty"`
	Changed        bool     `json:"changed,omitempty"`
	Emptied        bool     `json:"emptied,omitempty"`
	LastGood       lastGood `json:"lastGood,omitzero"`
	Failures       int      `json:"failures,omitempty"`
	RetryAt        string   `json:"retryAt,omitempty"`
	RecordSetAside string   `json:"recordSetAside,omitempty"`
	CorrelationIDs []string `json:"correlationIDs,omitempty"`
	IDsOmitted     int      `json:"correlationIDsOmitted,omitempty"`
	Summary        *summary `json:"summary,omitempty"`
	Tokens         []token  `json:"tokens,omitempty"`
	DurationMS     float64  `json:"durationMS,omitempty"`
	Lost           int      `json:"lost,omitempty"`
	// Chain is added to the encoded line when that is written.
	Chain *chain.Link `json:"chain,omitempty"`

	at time.Time
}

type pod struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

type account struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

type classRef struct {
	Namespace       string `json:"namespace"`
	Name            string `json:"name"`
	ResourceVersion string `json:"resourceVersion,omitempty"`
}

// store is the login of an access.
type store struct {
	Address   string `json:"address"`
	Namespace string `json:"namespace,omitempty"`
	Mount     string `json:"mount,omitempty"`
	Role      string `json:"role,omitempty"`
	Lease     string `json:"lease,omitempty"`
}

type object struct {
	ID      string `json:"id"`
	Version string `json:"version"`
}

type lastGood struct {
	AsOf       string  `json:"asOf"`
	AgeSeconds float64 `json:"ageSeconds"`
}

// summary replaces the lines of several refreshes of one volume.
type summary struct {
	Since         string   `json:"since"`
	Refreshes     int      `json:"refreshes"`
	Changed       int      `json:"changed,omitempty"`
	Failed        int      `json:"failed,omitempty"`
	ClassVersions []string `json:"classVersions,omitempty"`
}

type token struct {
	Audience string `json:"audience"`
	JTI      string `json:"jti"`
}

// begin makes an empty line one about lost lines; fill adds an outcome to it.
func (l *line) begin(node string, at time.Time) {
	l.APIVersion, l.Time, l.Event, l.Node, l.at = apiVersion, chain.Time(at), lost, node, at
}

// empty removes everything, and keeps the memory of short lists.
func (l *line) empty() {
	*l = line{Objects: emptied(l.Objects), CorrelationIDs: emptied(l.CorrelationIDs), Tokens: emptied(l.Tokens)}
}

func emptied[T any](list []T) []T {
	const short = 16
	if cap(list) > short {
		return nil
	}
	clear(list[:cap(list)])
	return list[:0]
}

// size returns about how many bytes the line takes. It is known before the line is
// encoded, which the goroutine that writes does.
func (l *line) size() int {
	const names = 900 // of fields, and values of a bounded length
	n := names + len(l.Error)
	for _, o := range l.Objects {
		n += len(`{"id":"","version":""},`) + len(o.ID) + len(o.Version)
	}
	for _, id := range l.CorrelationIDs {
		n += len(`"",`) + len(id)
	}
	for _, t := range l.Tokens {
		n += len(`{"audience":"","jti":""},`) + len(t.Audience) + len(t.JTI)
	}
	return n
}

// encode adds the line, with its end.
func (l *line) encode(to *bytes.Buffer) {
	enc := json.NewEncoder(to)
	enc.SetEscapeHTML(false) // for people, who read paths and hints in it
	_ = enc.Encode(l)        // strings and numbers always encode
}

func (l *line) fill(o *volume.Outcome) {
	l.Event = string(o.Kind)
	if o.Kind == volume.ReleaseFailed {
		l.Event, l.RetryAt = string(volume.Released), chain.Time(o.NextAt)
	}
	l.result(o.Err)
	if o.ID != "" { // else it is a record of an unknown volume
		l.Pod = pod{o.Pod.Namespace, o.Pod.Name, o.Pod.UID}
		l.Class = classRef{o.Class.Namespace, o.Class.Name, o.ClassVersion}
		l.DurationMS = float64(o.Took.Microseconds()) / 1000
		l.identify(o)
	}
	l.Provider, l.Volume, l.Changed, l.Emptied = o.Provider, o.ID, o.Changed, o.Emptied
	l.Failures, l.RecordSetAside, l.AnsweredBy = o.Failures, o.SetAside, o.AnsweredBy
	l.addIDs(o.Asked)
	l.list(o.Versions)
	if !o.AsOf.IsZero() {
		l.LastGood = lastGood{chain.Time(o.AsOf), l.at.Sub(o.AsOf).Round(time.Second).Seconds()}
	}
}

// result sets how the work ended.
func (l *line) result(err error) {
	l.Outcome = "success"
	if err != nil {
		l.Outcome, l.Reason, l.Error = "failure", string(fault.Of(err)), printable.Cut(err.Error(), maxErrorBytes)
	}
}

// fillAccess adds a login or renewal of an outcome.
func (l *line) fillAccess(o *volume.Outcome, a provider.Access) {
	l.Event = a.Operation
	l.result(a.Err)
	l.Pod = pod{o.Pod.Namespace, o.Pod.Name, o.Pod.UID}
	l.Class = classRef{o.Class.Namespace, o.Class.Name, o.ClassVersion}
	l.identify(o)
	l.Provider, l.Volume, l.DurationMS = o.Provider, o.ID, float64(a.Took.Microseconds())/1000
	l.Store = store{a.Address, a.Namespace, a.Mount, a.Role, a.Lease}
	if a.Asked != "" {
		l.addIDs([]string{a.Asked})
	}
}

// identify adds the service account, and its tokens by the ids that Kubernetes' own
// audit log has.
func (l *line) identify(o *volume.Outcome) {
	l.ServiceAccount.Name = o.Pod.ServiceAccount
	for _, claims := range o.Tokens {
		if claims.ServiceAccountUID != "" {
			l.ServiceAccount.UID = claims.ServiceAccountUID
		}
		if claims.ID != "" {
			l.Tokens = append(l.Tokens, token{claims.Audience, claims.ID})
		}
	}
}

// Limits of one line: a class decides how many objects there are and how long their
// names are, and a store how long its texts are.
const (
	maxObjectBytes = 16 << 10
	maxErrorBytes  = 4 << 10
	maxIDs         = 256
)

// list adds the objects that fit. If some do not fit, it adds the digest of all.
func (l *line) list(versions []provider.Version) {
	room := maxObjectBytes
	for _, v := range versions {
		if room -= len(v.ID) + len(v.Version); room < 0 {
			break
		}
		l.Objects = append(l.Objects, object{v.ID, v.Version})
	}
	if l.ObjectsOmitted = len(versions) - len(l.Objects); l.ObjectsOmitted > 0 {
		l.ObjectsDigest = provider.Digest(versions)
	}
}

// shorten removes the objects and keeps their digest.
func (l *line) shorten(versions []provider.Version) {
	if len(versions) > 0 {
		l.Objects, l.ObjectsOmitted, l.ObjectsDigest = l.Objects[:0], len(versions), provider.Digest(versions)
	}
}

func (l *line) addIDs(ids []string) {
	n := min(len(ids), maxIDs-len(l.CorrelationIDs))
	l.CorrelationIDs = append(l.CorrelationIDs, ids[:n]...)
	l.IDsOmitted += len(ids) - n
}
