// Package trail reads the driver's audit trail and finds the pods that received a class's secrets.
// Its memory is bounded for any input.
package trail

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/mayfly-csi/mayfly/pkg/audit/chain"
	"github.com/mayfly-csi/mayfly/pkg/printable"
)

// MaxReaders is how many pods of a trail are stored.
const MaxReaders = 20_000

// Limits of what else is stored of a trail, whatever its size.
const (
	maxObjects  = 64
	maxVersions = 8
	maxWord     = 256
)

// line is the part of a trail's line that the package uses.
type line struct {
	APIVersion string
	Time       string
	Event      string
	Outcome    string
	Reason     string
	Error      string
	Node       string
	Pod        *struct{ Namespace, Name, UID string }
	Class      *struct{ Namespace, Name string }
	Objects    []struct{ ID, Version string }
	Summary    *struct {
		Since                      string
		Refreshes, Changed, Failed int
	}
	ServiceAccount struct{ Name string }
	ObjectsOmitted int
	Lost           int

	at, since time.Time
}

// Reader is a pod that received the class's secrets, or was refused them.
type Reader struct {
	Namespace      string     `json:"namespace"`
	Pod            string     `json:"pod"`
	UID            string     `json:"uid,omitempty"`
	ServiceAccount string     `json:"serviceAccount,omitempty"`
	Node           string     `json:"node,omitempty"`
	First          *time.Time `json:"first,omitempty"`
	Last           *time.Time `json:"last,omitempty"`
	Reads          int        `json:"reads"`
	// Uncertain counts the reads whose lines do not list every object, if the query is for one
	// object.
	Uncertain int `json:"uncertain,omitempty"`
	// Versions are those of each object, the newest last.
	Versions map[string][]string `json:"versions,omitempty"`
	Failures int                 `json:"failures,omitempty"`
	Failure  *Failure            `json:"lastFailure,omitempty"`
	// Gone is when the volume was unpublished.
	Gone *time.Time `json:"gone,omitempty"`
}

// Failure is the last one of a pod.
type Failure struct {
	Time   time.Time `json:"time"`
	Reason string    `json:"reason,omitempty"`
	Error  string    `json:"error,omitempty"`
}

// Trail collects the lines about one class. Its methods are safe for concurrent use.
type Trail struct {
	namespace, class, object string
	since                    time.Time
	// most bounds the readers.
	most int

	mu      sync.Mutex
	readers map[string]*Reader
	sums    Sums
}

// Sums count the lines of a trail.
type Sums struct {
	// Lines counts all, Bad those that claim to be of a trail and are invalid, Lost those that a
	// driver reports as lost.
	Lines, Bad, Lost int
	// Omitted counts lines about pods beyond the limit.
	Omitted int
	// Broken counts the places where a chain of lines is broken, Break says what is
	// wrong with the first.
	Broken int
	Break  string
	// Why says what is wrong with the first bad line.
	Why string
}

// New makes a Trail for a class, and for one of its objects unless that is empty, without the lines
// before a time.
func New(namespace, class, object string, since time.Time) *Trail {
	return &Trail{namespace: namespace, class: class, object: object, since: since, most: MaxReaders, readers: map[string]*Reader{}}
}

// Sums returns the counts so far.
func (t *Trail) Sums() Sums {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sums
}

// Read reads all lines of a log, and checks those of each chain against each
// other. node is where it was written, empty if unknown: Read ignores lines that
// name another one.
func (t *Trail) Read(r io.Reader, node string) error {
	var v chain.Verifier
	err := chain.Lines(r, func(number int, text []byte) {
		v.Add(chain.Place{Line: number}, text)
		t.take(text, node)
	})
	v.End()
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(v.Breaks) + v.More; n > 0 {
		t.sums.Broken += n
		t.sums.Break = cmp.Or(t.sums.Break, v.Breaks[0].Why)
	}
	return err
}

// take uses one line if it belongs to a trail: a JSON object from its start, so that text within
// another program's line does not count.
func (t *Trail) take(text []byte, node string) {
	if len(text) == 0 || text[0] != '{' || !bytes.Contains(text, []byte(chain.Version)) {
		return
	}
	l, err := parseLine(text)
	if err == nil && l.APIVersion != chain.Version {
		return // another program's line that mentions one
	}
	if err == nil && node != "" && l.Node != node {
		err = fmt.Errorf("it names node %q, and was written on %s", clip(l.Node), node)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sums.Lines++
	if err != nil {
		t.sums.Bad++
		t.sums.Why = cmp.Or(t.sums.Why, err.Error())
		return
	}
	t.sums.Lost += l.Lost
	t.count(l)
}

// name matches what Kubernetes accepts as the name of a namespace, pod, service account, node or
// class.
var name = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

func parseLine(text []byte) (*line, error) {
	if len(text) > chain.MaxLine {
		return nil, errors.New("it is longer than any line of a driver")
	}
	l := &line{}
	if err := json.Unmarshal(text, l); err != nil {
		return nil, fmt.Errorf("it is not JSON of that form: %w", err)
	}
	if l.APIVersion != chain.Version {
		return l, nil
	}
	var err error
	if l.at, err = time.Parse(time.RFC3339, l.Time); err != nil {
		return nil, fmt.Errorf("its time %q is invalid", clip(l.Time))
	}
	l.since = l.at
	if s := l.Summary; s != nil {
		if l.since, err = time.Parse(time.RFC3339, s.Since); err != nil || s.Refreshes < 1 || s.Failed < 0 || s.Failed > s.Refreshes {
			return nil, errors.New("its summary is invalid")
		}
	}
	return l, l.check()
}

func (l *line) check() error {
	if l.Lost < 0 || l.ObjectsOmitted < 0 {
		return errors.New("it has a negative number")
	}
	if l.Outcome != "" && l.Outcome != "success" && l.Outcome != "failure" {
		return fmt.Errorf("its outcome is %q", clip(l.Outcome))
	}
	if l.Class == nil {
		return nil
	}
	if l.Pod == nil || l.Pod.Namespace != l.Class.Namespace {
		return errors.New("its pod is not in the namespace of its class")
	}
	for what, word := range map[string]string{
		"namespace": l.Class.Namespace, "class": l.Class.Name, "pod": l.Pod.Name, "service account": l.ServiceAccount.Name, "node": l.Node,
	} {
		if !name.MatchString(word) && (what != "service account" || word != "") {
			return fmt.Errorf("%q is not a name of a %s", clip(word), what)
		}
	}
	return nil
}

// count adds a line to its reader.
func (t *Trail) count(l *line) {
	if l.Class == nil || l.Class.Namespace != t.namespace || l.Class.Name != t.class || l.at.Before(t.since) {
		return
	}
	switch l.Event {
	case "publish", "refresh", "unpublish":
	default:
		return // releases and restarts give a pod no secrets
	}
	certain, listed := true, t.object == ""
	for _, o := range l.Objects {
		listed = listed || o.ID == t.object
	}
	if !listed && l.reads() > 0 && l.Event != "unpublish" {
		if l.ObjectsOmitted == 0 && l.Outcome == "success" {
			return
		}
		certain = false
	}
	key := l.Pod.Name + "/" + clip(l.Pod.UID)
	r := t.readers[key]
	if r == nil {
		if l.Event == "unpublish" {
			return // the pod has not read since
		}
		if len(t.readers) >= t.most {
			t.sums.Omitted++
			return
		}
		r = &Reader{Namespace: l.Pod.Namespace, Pod: l.Pod.Name, UID: clip(l.Pod.UID)}
		t.readers[key] = r
	}
	r.add(l, t.object, certain)
}

// reads is the number of reads that the line is about and that succeeded.
func (l *line) reads() int {
	switch {
	case l.Summary != nil:
		return l.Summary.Refreshes - l.Summary.Failed
	case l.Outcome == "failure":
		return 0
	}
	return 1
}

func (r *Reader) add(l *line, object string, certain bool) {
	r.Node, r.ServiceAccount = l.Node, cmp.Or(l.ServiceAccount.Name, r.ServiceAccount)
	at, since := l.at, l.since // the line itself is not kept
	if l.Event == "unpublish" {
		if l.Outcome == "success" {
			r.Gone = &at
		}
		return
	}
	reads, failures := l.reads(), 0
	switch {
	case l.Summary != nil:
		failures = l.Summary.Failed
	case l.Outcome == "failure":
		failures = 1
	}
	r.Reads += reads
	r.Failures += failures
	if !certain {
		r.Uncertain += reads
	}
	if l.Outcome == "failure" && (r.Failure == nil || !l.at.Before(r.Failure.Time)) {
		r.Failure = &Failure{l.at, clip(l.Reason), clip(l.Error)}
	}
	if reads == 0 {
		return
	}
	if r.First == nil || since.Before(*r.First) {
		r.First = &since
	}
	if r.Last == nil || at.After(*r.Last) {
		r.Last = &at
	}
	for _, o := range l.Objects {
		if object == "" || o.ID == object {
			r.saw(clip(o.ID), clip(o.Version))
		}
	}
}

// saw records a version of an object, the newest last.
func (r *Reader) saw(id, version string) {
	if r.Versions == nil {
		r.Versions = map[string][]string{}
	}
	known := r.Versions[id]
	if known == nil && len(r.Versions) >= maxObjects || len(known) > 0 && known[len(known)-1] == version {
		return
	}
	known = append(slices.DeleteFunc(known, func(v string) bool { return v == version }), version)
	r.Versions[id] = known[max(0, len(known)-maxVersions):]
}

// Readers returns the readers so far, the last ones first.
func (t *Trail) Readers() []Reader {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]Reader, 0, len(t.readers))
	for _, key := range slices.Sorted(maps.Keys(t.readers)) {
		all = append(all, *t.readers[key])
	}
	last := func(r Reader) time.Time {
		at := time.Time{}
		if r.Last != nil {
			at = *r.Last
		}
		if r.Failure != nil && r.Failure.Time.After(at) {
			at = r.Failure.Time
		}
		return at
	}
	slices.SortStableFunc(all, func(a, b Reader) int { return last(b).Compare(last(a)) })
	return all
}

func clip(text string) string { return printable.Cut(text, maxWord) }
